"""Time to first token that preloading saves: the same sessions over a real store, with the scheduler and without.

    python benchmarks/scheduler_ttft.py                 the 0.5B shape on the CPU (minutes)
    python benchmarks/scheduler_ttft.py --shape small   a small shape (seconds; whether everything runs)

A person has memories in topics, and a session asks about one topic, two memories a turn, in the same order each time.
The sessions of the past are written into the store's own log; then sessions are held, and each turn is a chat with the
local model, of random weights. Every memory has its KV cache on disk; RAM has room for a part of them. Arms:

    text         no KV caches at all
    on disk      RAM has room for none of them
    used last    RAM keeps what saved most lately, which is what the KV tier does by itself
    predicted    the scheduler holds ready what it expects next, in half of the same RAM
    in RAM       RAM has room for all of them: what no choice can beat

Between turns the page cache is told to forget the files, as it has after a pause, and what is kept of conversations is
dropped, so that every turn needs the memory's own cache. Where the machine does much else, compare processor time.
`ready`: the share of the caches needed that lay in RAM when the turn began. Nothing is asserted: it prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from benchmarks import kv_plot
from benchmarks.kv_arms import SHAPES, VOCABULARY, Shape
from engine.memos import MemOS
from engine.model_operations import Chat, ChatTurn, Finished, Form, MemoryUse, Said, Sampling, Tier
from engine.operations import Caller, Remember
from engine.scheduler.heat import Event
from engine.settings import Settings
from engine.vault.artifacts import CONVERSATION

RESULTS = Path(__file__).with_name("results")
START = datetime(2026, 1, 5, 8, tzinfo=UTC)
TOPICS, PAST_SESSIONS = 6, 20
NEEDED = 2  # memories of a turn
SHARE = 0.5  # of the bytes of all caches, that RAM has room for
TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} {{ message['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
ME = Caller(client="benchmark")
ARMS = ("text", "on disk", "used last", "predicted", "in RAM")


@dataclass
class Clock:
    instant: datetime = START

    def now(self) -> datetime:
        return self.instant


@dataclass
class Figures:
    """Of one arm: milliseconds to the first token of each turn, and how many of the caches needed were in RAM."""

    ttft_ms: list[float] = field(default_factory=list)
    processor_ms: list[float] = field(default_factory=list)
    ready: list[bool] = field(default_factory=list)

    def plain(self) -> dict[str, float]:
        return {
            "turns": len(self.ttft_ms),
            "ttft_ms": round(median(self.ttft_ms), 1),
            "processor_ms": round(median(self.processor_ms), 1),
            "ready": round(sum(self.ready) / max(1, len(self.ready)), 3),
        }


def model_folder(shape: Shape, dtype: torch.dtype, folder: Path) -> Path:
    """A model of random weights as a folder that the engine loads."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
    )
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
    names = ["[UNK]", "<|im_start|>", "<|im_end|>", *(word(number) for number in range(VOCABULARY - 3))]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names[1:3]])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="<|im_end|>", pad_token="[UNK]"
    ).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    return folder


def texts(count: int, tokens: int) -> list[str]:
    """Memories of random words, none of which has a word of another one."""
    draw = random.Random(0)
    words = list(range(VOCABULARY - 3))
    draw.shuffle(words)
    return [" ".join(word(words[n * tokens + k]) for k in range(tokens)) for n in range(count)]


def word(number: int) -> str:
    """A short one: a memory that is too long in characters is cut into pieces."""
    return "w" + np.base_repr(number, 36).lower()


def sessions(count: int, each: int, seed: int) -> list[list[range]]:
    """Of each session the memories that its turns need: a topic's, always in the same order."""
    draw = random.Random(seed)
    firsts = [topic * each * NEEDED for topic in (draw.randrange(TOPICS) for _ in range(count))]
    return [[range(first + NEEDED * turn, first + NEEDED * (turn + 1)) for turn in range(each)] for first in firsts]


class Bench:
    """One store with its memories, the past in its log, and a KV cache of each memory."""

    def __init__(self, settings: Settings, options: argparse.Namespace) -> None:
        self.settings, self.options = settings, options
        self.texts = texts(TOPICS * options.each * NEEDED, options.tokens)
        self.ids: list[str] = []
        self.bytes = 0

    def fill(self) -> None:
        clock = Clock()
        with MemOS.open(self.settings, clock=clock) as memos:
            for text in self.texts:
                clock.instant += timedelta(minutes=1)
                self.ids.append(memos.remember(Remember(content=text), ME).stored[0].id)
            for session in sessions(PAST_SESSIONS, self.options.each, 1):
                clock.instant += timedelta(hours=3)
                for needed in session:
                    clock.instant += timedelta(minutes=1)
                    memos._scheduling.used(Event.GIVEN, [self.ids[place] for place in needed], ME)
            say(f"building {len(self.texts)} KV caches of {self.options.tokens} tokens")
            built = memos.build_tier("default", ME)
            self.bytes = built.bytes
            say(f"{built.chunks} built, {built.bytes / 1e6:.0f} MB, {len(built.skipped)} skipped")
            self.until = clock.instant

    def run(self, arm: str) -> Figures:
        """Hold the sessions in one arm."""
        ram = {"on disk": 0, "in RAM": 4 * self.bytes}.get(arm, int(SHARE * self.bytes))
        parts = ("preload",) if arm == "predicted" else ()
        clock, found = Clock(self.until), Figures()
        with MemOS.open(replace(self.settings, kv_ram_bytes=ram, scheduler=parts), clock=clock) as memos:
            memos.model(ME, load=True)
            if arm == "in RAM":
                for id in self.ids:
                    memos._scheduling._caches.hold([id])
            for session in sessions(self.options.sessions, self.options.each, 2):
                clock.instant += timedelta(hours=3)
                for needed in session:
                    clock.instant += timedelta(minutes=1)
                    self._turn(memos, arm, needed, found)
        return found

    def _turn(self, memos: MemOS, arm: str, needed: Sequence[int], found: Figures) -> None:
        forget_files(self.settings.blobs_folder)
        caches = memos._scheduling._caches.look()
        assert caches is not None
        found.ready += [caches.kept[self.ids[place]].in_ram for place in needed]
        words = " ".join(word for place in needed for word in self.texts[place].split()[: self.options.asked])
        tiers = (Tier.TEXT,) if arm == "text" else (Tier.TEXT, Tier.KV)
        request = Chat(
            (ChatTurn("user", words),), MemoryUse(cubes=("default",), tiers=tiers, limit=NEEDED), Sampling(1, 0.0)
        )
        began = time.process_time()
        for event in memos.chat(request, ME):
            if isinstance(event, Said) and event.text:
                found.processor_ms.append(1e3 * (time.process_time() - began))
            last = event
        assert isinstance(last, Finished)
        form = Form.TEXT if arm == "text" else Form.CHUNK
        assert [(used.id, used.form) for used in last.report.used] == [(self.ids[place], form) for place in needed]
        found.ttft_ms.append(last.report.ttft_ms)
        local = memos._answering.at_hand
        assert local is not None
        local.store.drop(ME, CONVERSATION)  # else the second time that something is asked has nothing to read at all
        if arm == "predicted":
            memos._scheduling.preload()


def forget_files(folder: Path) -> None:
    """Have the page cache forget what lies there, where the system can be told."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def table(found: dict[str, dict[str, float]]) -> str:
    on_disk = found["on disk"]["ttft_ms"]
    lines = [f"{'':12}{'first token (ms)':>18}{'of the processor':>18}{'saved to on disk':>18}{'ready':>8}"]
    for arm, row in found.items():
        took, busy = row["ttft_ms"], row["processor_ms"]
        lines.append(f"{arm:12}{took:18,.1f}{busy:18,.1f}{on_disk - took:18,.1f}{row['ready']:8.0%}")
    return "\n".join(lines)


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="0.5B")
    parser.add_argument("--tokens", type=int, default=192, help="of each memory")
    parser.add_argument("--each", type=int, default=3, help="turns of a session")
    parser.add_argument("--sessions", type=int, default=6, help="that are held and measured")
    parser.add_argument("--asked", type=int, default=6, help="words of a question")
    parser.add_argument("--json", type=Path, default=RESULTS / "scheduler_ttft.json")
    return parser.parse_args(given)


def say(text: str) -> None:
    print(text, flush=True)


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    torch.set_num_threads(1)
    shape, dtype = SHAPES[options.shape], torch.float32 if options.shape == "small" else torch.bfloat16
    found: dict[str, dict[str, float]] = {}
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {"by the clock": {}, "of the processor": {}}
    with tempfile.TemporaryDirectory(prefix="memos-ttft-") as name:
        folder = Path(name)
        base = Settings(
            data=folder / "data",
            embedder="none",
            offline=True,
            backup_every_h=0,
            model=str(model_folder(shape, dtype, folder / "model")),
            kv_bound=100.0,  # random weights diverge as they like: time is measured here, not what is said
        )
        bench = Bench(base, options)
        bench.fill()
        for arm in ARMS:
            figures = bench.run(arm)
            for title, took in zip(panels, (figures.ttft_ms, figures.processor_ms), strict=True):
                panels[title][arm] = [(float(number), ms) for number, ms in enumerate(took, 1)]
            found[arm] = figures.plain()
            say(f"{arm}: {found[arm]}")
    say(f"\n{shape}, {dtype}, memories of {options.tokens} tokens\n\n{table(found)}")
    report: dict[str, Any] = {"shape": str(shape), "tokens": options.tokens, "arms": found}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    kv_plot.write(options.json.with_suffix(".svg"), panels, "turn", "milliseconds to the first token")
    return 0


if __name__ == "__main__":
    sys.exit(main())
