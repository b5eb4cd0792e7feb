"""What adapters learn and forget, what that costs, and from how many uses on an adapter pays.

    python benchmarks/lora.py                    the test model, 10, 100 and 500 facts; break-even at the 0.5B shape too
    python benchmarks/lora.py --facts 10 100 --ranks 4 8 16
    python benchmarks/lora.py --device cuda --shapes 0.5B 8B
    python benchmarks/lora.py --quick            whether everything runs; its figures mean nothing

What is learned is measured on the small test model, closed book, in the phrasings that were trained with and in others,
beside what must not change: answers from contexts, refusals, contexts that contradict. Its vocabulary has 600 different
facts, so there are no more. Costs are processor time on a CPU, the clock on a GPU. The break-even is that of memory as
text, as a stored KV prefix and as an adapter: what each takes to be made, once, and to the first token, each time; at
shapes with random weights training is as many steps as the test model needed, of which a few are timed. Nothing is
asserted: it prints tables.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import kv_plot
from benchmarks.kv import DTYPES, TEST_MODEL, machine, say, table
from benchmarks.kv_arms import FULL, PREFIX, SHAPES, VOCABULARY, Bench, Store, random_model
from engine.model.loading import Loaded, load
from engine.model.prompts import Note
from engine.settings import Settings
from engine.tiers.lora.asking import answers, finished, prompt_ids
from engine.tiers.lora.distil import Plan, adapter_config, distilling
from engine.tiers.lora.material import KINDS, MEMORY, Material, Row, Target, gathering
from engine.tiers.lora.questions import Scene
from engine.tiers.lora.serving import Resident
from tests.models.questions import HELD_OUT, STUDIED, Facts, some_notes

FACTS, RANKS, MEMORY_TOKENS = (10, 100, 500), (4, 8, 16), 1_024
POINTS = (25, 50, 100, 200, 400, 800, 1_600)  # steps after which an adapter in training is asked
ASKED, CASES, ROUNDS, SEED = 100, 200, 5, 31
USES = tuple(10**power for power in range(7))
PLENTY = 1 << 34
NAME = "measured"
TEXT, KV, LORA = "text", "KV prefix", "adapter"


class Stopwatch:
    """Seconds of the processor, on a GPU of the clock, while it runs."""

    def __init__(self, device: torch.device) -> None:
        self._now = time.perf_counter if device.type == "cuda" else time.process_time
        self._device = device
        self.seconds = 0.0

    def timed(self, work: Callable[[], object]) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        start = self._now()
        try:
            work()
        finally:
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            took = self._now() - start
            self.seconds += took
        return took


def learned(loaded: Loaded, count: int, rank: int, *, quick: bool = False) -> list[dict[str, float]]:
    """A row for each point of one training, and one for its end, with what must not change."""
    resident, watch = Resident(loaded, PLENTY), Stopwatch(loaded.model.device)
    notes, questions = some_notes(SEED, count)
    made: list[Material] = []
    watch.timed(
        lambda: made.append(
            finished(gathering(resident.wearing(None), notes, questions, SEED, replayed=40 if quick else 0))
        )
    )
    plan = Plan(rank=rank, alpha=2 * rank, steps=30 if quick else max(400, 6 * count), seed=SEED)
    steps, stages, rows = distilling(resident, NAME, made[0], plan), list[float](), list[dict[str, float]]()
    try:
        while True:
            watch.timed(lambda: stages.append(next(steps).done))
            if stages[-1] in POINTS:
                rows.append(_known(resident, notes, questions, stages[-1], watch.seconds))
    except StopIteration as stopped:
        done = stopped.value
    row = _known(resident, notes, questions, done.steps, watch.seconds) | _unchanged(resident, notes, questions)
    rows.append(row | {"bytes": done.bytes, "peak bytes": done.peak_bytes, "end": 1.0})
    resident.close()
    return [{"facts": count, "rank": rank, **row} for row in rows]


def _known(
    resident: Resident, notes: Sequence[Note], questions: Facts, steps: float, seconds: float
) -> dict[str, float]:
    some = random.Random(0).sample(list(notes), min(ASKED, len(notes)))
    about = [questions.by_id[note.id] for note in some]
    shares = [
        _right(resident.wearing(NAME), [(one.format(name=fact.name, about=fact.about), fact.value) for fact in about])
        for one in (*STUDIED, *HELD_OUT)
    ]
    return {
        "steps": steps,
        "seconds": seconds,
        "trained phrasings": fmean(shares[: len(STUDIED)]),
        "others": fmean(shares[len(STUDIED) :]),
    }


def _right(loaded: Loaded, asked: Sequence[tuple[str, str]]) -> float:
    said = answers(loaded, [prompt_ids(loaded, text) for text, _ in asked])
    return fmean(one.text == right for one, (_, right) in zip(said, asked, strict=True))


def _unchanged(resident: Resident, notes: Sequence[Note], questions: Facts) -> dict[str, float]:
    draw = random.Random(SEED + 1)
    kinds: Mapping[str, Sequence[Scene]] = {
        "in context": questions.scenes(draw, notes, CASES),
        "unknown": [Scene((), one) for one in questions.unknown(draw, notes, CASES)],
        "context wins": questions.conflicts(draw, notes, CASES),
    }
    found = {}
    for name, scenes in kinds.items():
        prompts = [prompt_ids(resident.base, scene.question.text, scene.notes) for scene in scenes]
        for suffix, worn in (("", NAME), (", base", None)):
            said = answers(resident.wearing(worn), prompts)
            right = [one.text == scene.question.right for one, scene in zip(said, scenes, strict=True)]
            found[name + suffix] = fmean(right)
    return found


def switching(loaded: Loaded, rounds: int) -> dict[str, float]:
    """Milliseconds of a forward pass of one short question: without, with one adapter, with another each time, and of
    a batch of eight with an adapter each, beside the same one at a time."""
    resident = Resident(loaded, PLENTY)
    names = [f"adapter-{number}" for number in range(8)]
    for name in names:
        resident.add(name, adapter_config(Plan()))
    ids = torch.arange(3, 23, device=loaded.model.device)[None]
    bare, worn = resident.wearing(None).model, [resident.wearing(name).model for name in names]
    mixing, batch = resident.mixing().model, ids.repeat(len(names), 1)
    arms: dict[str, Callable[[int], object]] = {
        "base": lambda turn: bare(input_ids=ids),
        "one adapter": lambda turn: worn[0](input_ids=ids),
        "another each time": lambda turn: worn[turn % len(worn)](input_ids=ids),
        "eight in one batch": lambda turn: mixing(input_ids=batch, adapter_names=names),
        "eight one at a time": lambda turn: [model(input_ids=ids) for model in worn],
    }
    took: dict[str, list[float]] = {name: [] for name in arms}
    with torch.inference_mode():
        for turn in range(20 * rounds):
            for name, arm in arms.items():
                took[name].append(Stopwatch(loaded.model.device).timed(lambda arm=arm, turn=turn: arm(turn)))  # type: ignore[misc]
    resident.close()
    return {name: 1e3 * median(times) for name, times in took.items()}


def saved_tokens(loaded: Loaded) -> dict[str, float]:
    """Prompt tokens of an answer with so many recalled notes as text, and with an adapter that knows them."""
    notes, questions = some_notes(SEED, 64)
    draw, found = random.Random(SEED), {}
    for count in (1, 4, 8):
        asked = [(questions.probes(note)[0].text, draw.sample(list(notes), count)) for note in notes]
        found[f"{count} as text"] = fmean(len(prompt_ids(loaded, text, told)) for text, told in asked)
    found["in the adapter"] = fmean(len(prompt_ids(loaded, questions.probes(note)[0].text)) for note in notes)
    return found


def costs(loaded: Loaded, tokens: int, steps: int, folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """What each form takes to be made and to be used, in seconds, at a shape with random weights."""
    bench = Bench(loaded, tokens, Store(folder))
    watch = Stopwatch(loaded.model.device)
    arms = bench.arms(())
    taken = {name: [_seconds(loaded, arms[name]()) for _ in range(rounds + 1)][1:] for name in (FULL, PREFIX)}
    resident = Resident(loaded, PLENTY)
    held = bench.ids[:-32]
    material, plan = _random_material(tokens), Plan(steps=2, warm_up=0)
    train = watch.timed(lambda: finished(distilling(resident, NAME, material, plan))) / plan.steps
    model, ids = resident.wearing(NAME).model, torch.tensor([bench.ids[:16] + bench.ids[-32:]])
    ids = ids.to(loaded.model.device)
    with torch.inference_mode():
        asked = [watch.timed(lambda: model(input_ids=ids, use_cache=False)) for _ in range(rounds + 1)][1:]
    resident.close()
    full = median(taken[FULL])
    return {
        TEXT: {"make": 0.0, "use": full},
        KV: {"make": full * len(held) / len(bench.ids), "use": median(taken[PREFIX])},
        LORA: {"make": train * steps, "use": median(asked)},
    }


def _seconds(loaded: Loaded, took: tuple[float, float]) -> float:
    return took[0] if loaded.model.device.type == "cuda" else took[1]


def _random_material(tokens: int) -> Material:
    """Rows of the lengths that distilling `tokens` of notes has: what they say does not matter for what they cost."""
    draw, rows = random.Random(0), list[Row]()
    for _ in range(64):
        prompt, answer = (tuple(draw.randrange(3, VOCABULARY) for _ in range(count)) for count in (48, 8))
        target = Target(torch.randint(3, VOCABULARY, (8, 64)), torch.full((8, 64), -6.0))
        rows.append(Row(MEMORY, prompt, answer, target))
    notes = tuple(Note(f"n{number}", 1, "") for number in range(max(1, tokens // 16)))
    return Material({kind: tuple(rows) if kind == MEMORY else () for kind in KINDS}, notes, 0, ())


def break_even(found: Mapping[str, Mapping[str, float]], form: str, other: str) -> float | None:
    """From how many uses on `form` costs less than `other` altogether; None: never."""
    saved = found[other]["use"] - found[form]["use"]
    extra = found[form]["make"] - found[other]["make"]
    return None if saved <= 0 else max(0.0, extra / saved)


def cost_table(title: str, found: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for form, cost in found.items():
        uses = [break_even(found, form, other) for other in found if other != form and form != TEXT]
        shown = ["never" if one is None else f"{one:,.0f}" for one in uses]
        rows.append((form, f"{cost['make']:,.3f}", f"{1e3 * cost['use']:,.2f}", *(shown or ["", ""])))
    return f"\n{title}\n\n" + table(
        ("form", "to make (s)", "a use (ms)", "pays against text from uses", "against the other"), rows
    )


def report(rows: Sequence[Mapping[str, float]]) -> str:
    heading = ("facts", "rank", "steps", "seconds", "trained phrasings", "others")
    kept = ("in context", "in context, base", "unknown", "unknown, base", "context wins", "bytes", "peak bytes")
    shown = []
    for row in rows:
        line = [f"{row['facts']:.0f}", f"{row['rank']:.0f}", f"{row['steps']:.0f}", f"{row['seconds']:.1f}"]
        line += [f"{row[name]:.3f}" for name in heading[4:]]
        line += [
            "" if name not in row else f"{row[name]:,.0f}" if "bytes" in name else f"{row[name]:.3f}" for name in kept
        ]
        shown.append(line)
    return table((*heading, *kept), shown)


def plot(
    path: Path, rows: Sequence[Mapping[str, float]], found: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> None:
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for title, costs_ in found.items():
        panels[f"{title}: seconds in all"] = {
            form: [(uses, cost["make"] + uses * cost["use"]) for uses in USES] for form, cost in costs_.items()
        }
    kv_plot.write(path, panels, "uses", "seconds")
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["others"] > 0:
            curves.setdefault(f"{row['facts']:.0f} facts, rank {row['rank']:.0f}", []).append(
                (row["steps"], row["others"])
            )
    kv_plot.write(path.with_stem(f"{path.stem}-learned"), {"unseen phrasings": curves}, "steps", "right answers")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=int, nargs="+", metavar="N")
    parser.add_argument("--ranks", type=int, nargs="+", metavar="R")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", nargs="*", choices=SHAPES)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--tokens", type=int, default=MEMORY_TOKENS, help="of memory, at the shapes")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="cost over uses, as SVG; what is learned beside it")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(given)
    options.facts = options.facts or ([4] if options.quick else list(FACTS))
    options.ranks = options.ranks or ([4] if options.quick else list(RANKS))
    middle = options.ranks[len(options.ranks) // 2]  # the largest number of facts takes long: with one rank alone
    options.trainings = [
        (count, rank)
        for count in options.facts
        for rank in options.ranks
        if len(options.facts) == 1 or count != max(options.facts) or rank == middle
    ]
    options.shapes = options.shapes if options.shapes is not None else ["small"] if options.quick else ["0.5B"]
    options.rounds = 1 if options.quick else options.rounds
    options.tokens = 128 if options.quick else options.tokens
    return options


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(given)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    about = machine(device, options.threads)
    say(", ".join(f"{name} {value}" for name, value in about.items()))
    with tempfile.TemporaryDirectory(prefix="memos-lora-") as name:
        folder = Path(name)
        settings = Settings(data=folder, offline=True, model_device=options.device, model_dtype="float32")
        loaded = load(str(TEST_MODEL), settings, lambda told: None)
        rows = []
        for count, rank in options.trainings:
            rows += learned(loaded, count, rank, quick=options.quick)
            say(f"\n{report(rows[-1:])}")
        say(f"\nThe test model, closed book\n\n{report(rows)}")
        switches, tokens = switching(loaded, options.rounds), saved_tokens(loaded)
        say("\n" + table(("a forward pass", "ms"), [(name, f"{took:.2f}") for name, took in switches.items()]))
        say("\n" + table(("memory", "prompt tokens"), [(name, f"{count:.1f}") for name, count in tokens.items()]))
        steps = int(next(row["steps"] for row in reversed(rows) if row.get("end")))
        found = {}
        for shape in options.shapes:
            random_one = random_model(SHAPES[shape], DTYPES[options.dtype], device)
            found[shape] = costs(random_one, options.tokens, steps, folder / shape, options.rounds)
            say(cost_table(f"{SHAPES[shape]}, {options.tokens:,} tokens of memory, {steps} steps", found[shape]))
    if options.json:
        result = {"at": datetime.now(UTC).isoformat(), "machine": about, "learned": rows, "switching": switches}
        options.json.write_text(json.dumps(result | {"tokens": tokens, "costs": found}, indent=1) + "\n", "utf-8")
    if options.plot:
        plot(options.plot, rows, found)


if __name__ == "__main__":
    main()
