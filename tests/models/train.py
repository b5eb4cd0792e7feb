"""Train the small model of the tests: `python -m tests.models.train FOLDER [--seed N] [--after FOLDER]`.

It reads statements such as "the city of alice is paris", in a system turn or as notes of a memory, and answers
questions about them: the latest statement wins, and what no statement says is "unknown". It is a Qwen2 of some 160,000
parameters over a vocabulary of words; digits are read one by one. What it knows of a name stands in its context only:
bindings are drawn anew for every example.

Three stages of plain training, each of which the next one needs: repeat random blocks (which teaches looking back),
restate statements in another order and wording, then converse. A short last stage goes on with long conversations, and
with batches in which no note sees another, as KV caches of single memories are read: Block-Attention, arXiv 2409.15355.
The log judges both readings before and after it. It starts with a fresh optimizer and a seed of its own, so `--after`
goes on from the weights of the first three, kept in a folder, to the very weights that one run makes. The same seed
gives the same weights on the same kind of machine and version of torch.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from tests.models import facts, layouts
from tests.models.examples import IGNORED, Batch, Example, Examples, batch, tokenizer
from tests.models.facts import UNKNOWN

SEED = 7
BATCH, SORTED_BATCHES = 32, 4  # conversations of like length are put together, out of so many batches
STAGES = (("repeat", 400), ("restate", 800), ("converse", 8_000))
LEARNING_RATE, WARM_UP, DECAY_FROM = 3e-3, 50, 0.6
LAST_STAGE, LAST_RATE, LAST_SEED = ("last", 1_500), 1.5e-3, 70
ALONE, LONG, LONG_BATCH = 0.4, 0.25, 8  # shares of the batches of the last stage
EVALUATE_EVERY, EVALUATED_AT_ONCE = 500, 250
UNSEEN = 777  # the seed of the cases that it is judged by


def batches(examples: Examples, seed: int, stages: Sequence[tuple[str, int]]) -> Iterator[tuple[str, Batch]]:
    """The batch of each step, and its kind; earlier kinds go on being seen."""
    draw, ready = random.Random(seed + 1), list[list[Example]]()
    for stage, count in stages:
        for _ in range(count):
            kind = "converse" if stage == "last" else stage
            if kind != "repeat" and draw.random() < 0.2:
                kind = {"restate": "repeat", "converse": "restate"}[kind]
            if kind != "converse":
                yield kind, batch([getattr(examples, kind)() for _ in range(BATCH)], False)
                continue
            if stage == "last" and draw.random() < LONG:
                yield "long", batch([examples.long() for _ in range(LONG_BATCH)], draw.random() < ALONE)
                continue
            if not ready:
                many = sorted((examples.converse() for _ in range(BATCH * SORTED_BATCHES)), key=lambda e: len(e.ids))
                ready = [many[start : start + BATCH] for start in range(0, len(many), BATCH)]
                draw.shuffle(ready)
            yield kind, batch(ready.pop(), draw.random() < (ALONE if stage == "last" else 0.0))


# --- judging ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def answered(
    model: torch.nn.Module, made: PreTrainedTokenizerFast, conversations: Sequence[list[layouts.Turn]]
) -> list[str]:
    """What is said to the last turn of each, greedily."""
    texts, was_training = list[str](), model.training
    made.padding_side = "left"
    model.eval()
    for start in range(0, len(conversations), EVALUATED_AT_ONCE):
        some = conversations[start : start + EVALUATED_AT_ONCE]
        prompts = [made.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) for turns in some]
        given = made(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        out = model.generate(
            input_ids=given.input_ids, attention_mask=given.attention_mask, max_new_tokens=6, do_sample=False
        )
        texts += made.batch_decode(out[:, given.input_ids.shape[1] :], skip_special_tokens=True)
    model.train(was_training)
    return texts


def conversation(draw: random.Random, place: str, case: facts.Case) -> list[layouts.Turn]:
    """The case with its statements in `place`, half the time behind other turns and with a system text."""
    history = list[layouts.Turn]()
    if place != "system" and draw.random() < 0.5:
        about = [fact for fact in {fact.key: fact for fact in case.told}.values() if fact.key != case.asked.key]
        for _ in range(draw.randint(1, 2)):
            asked = draw.choice(about) if about else facts.unsaid(draw, [case.asked])
            history.append({"role": "user", "content": facts.question(draw, asked)})
            history.append({"role": "assistant", "content": asked.value if place == "pinned" and about else UNKNOWN})
    system = "" if place == "system" else layouts.some_system_text(draw)
    split = draw.randint(1, len(case.statements) - 1) if len(case.statements) > 1 else 0
    return layouts.turns(place, case.statements, case.question, system, history, split)


@torch.no_grad()
def read_alone(model: torch.nn.Module, made: PreTrainedTokenizerFast, place: str, cases: Sequence[facts.Case]) -> float:
    """The share of right answers where no note sees another: each answer's tokens are the likeliest ones."""
    examples, right = Examples(made, random.Random(0)), 0
    for case in cases:
        example = examples.of_case(place, case)
        ids, labels, mask = batch([example], alone=True)
        likeliest = model(input_ids=ids, attention_mask=mask).logits[0, :-1].argmax(-1)
        counted = labels[0, 1:] != IGNORED
        right += int(torch.equal(likeliest[counted], labels[0, 1:][counted]))
    return round(right / len(cases), 3)


def judged(model: torch.nn.Module, made: PreTrainedTokenizerFast, cases: int) -> dict[str, float]:
    """The share of right answers for each place of the statements and kind of question."""
    table = dict[str, float]()
    for place in layouts.PLACES:
        kinds = [(f"{count}", (count, 0, "known")) for count in (1, 4, 8, 12) if place != "both" or count > 1]
        kinds += [("4+2 updated", (4, 2, "updated")), ("unknown of 6", (6, 0, "unknown"))]
        for name, (count, updates, kind) in [*kinds, ("without", (6, 0, "without"))]:
            drawn = facts.some_cases(UNSEEN, cases, count, updates, kind)
            draw = random.Random(UNSEEN)
            said = answered(model, made, [conversation(draw, place, case) for case in drawn])
            right = sum(text == case.answer for text, case in zip(said, drawn, strict=True))
            table[f"{place}: {name}"] = round(right / cases, 3)
    return table | judged_alone(model, made, cases)


def judged_alone(model: torch.nn.Module, made: PreTrainedTokenizerFast, cases: int) -> dict[str, float]:
    """As `judged`, where no note sees another: as chunks of KV cache are read, none of it computed anew."""
    updated = facts.some_cases(UNSEEN, cases, 4, 2, "updated")
    return {f"{place}, alone: 4+2 updated": read_alone(model, made, place, updated) for place in ("system", "recalled")}


# --- training ---------------------------------------------------------------------------------------------------------


def fresh(made: PreTrainedTokenizerFast) -> torch.nn.Module:
    config = Qwen2Config(
        vocab_size=len(made),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=made.eos_token_id,
        pad_token_id=0,
        initializer_range=0.02,
    )
    return AutoModelForCausalLM.from_config(config).train()


def learning_rate(step: int, total: int, highest: float, decay_from: float) -> float:
    share = step / total
    decayed = 1.0 if share < decay_from else max(0.02, (1 - share) / (1 - decay_from))
    return highest * min(1.0, (step + 1) / WARM_UP) * decayed


Say = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Course:
    """Some stages that are trained with one optimizer, from one seed."""

    stages: tuple[tuple[str, int], ...]
    seed: int
    rate: float
    decay_from: float

    @property
    def steps(self) -> int:
        return sum(count for _, count in self.stages)


def taught(model: torch.nn.Module, made: PreTrainedTokenizerFast, course: Course, say: Say) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=course.rate, betas=(0.9, 0.98), weight_decay=0.01)
    smooth, started = dict[str, float](), time.monotonic()
    examples = Examples(made, random.Random(course.seed))
    for step, (kind, (ids, labels, mask)) in enumerate(batches(examples, course.seed, course.stages)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, course.steps, course.rate, course.decay_from)
        hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
        counted = labels[:, 1:] != IGNORED
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[:, :-1][counted]), labels[:, 1:][counted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        name = kind if mask is None else f"{kind}, alone"
        smooth[name] = 0.95 * smooth.get(name, loss.item()) + 0.05 * loss.item()
        if (step + 1) % EVALUATE_EVERY == 0:
            losses = {name: round(value, 4) for name, value in smooth.items()}
            cases = judged(model, made, 50) if "converse" in smooth else {}
            say(step=step + 1, seconds=round(time.monotonic() - started), loss=losses, **cases)
    say(seconds=round(time.monotonic() - started), final=judged(model, made, 1_000))


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--after", type=Path, metavar="FOLDER", help="go on from the first three stages' weights")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    made = tokenizer()
    model = fresh(made)
    options.folder.mkdir(parents=True, exist_ok=True)
    with (options.folder / "training.log").open("w") as log:

        def say(**told: object) -> None:
            for out in (sys.stdout, log):
                print(json.dumps(told), file=out, flush=True)

        first = Course(STAGES, options.seed, LEARNING_RATE, DECAY_FROM)
        last = Course((LAST_STAGE,), options.seed + LAST_SEED, LAST_RATE, 0.0)
        if options.after:
            log.write((options.after / "training.log").read_text())
            model = AutoModelForCausalLM.from_pretrained(options.after).train()
        else:
            parameters = sum(weights.numel() for weights in model.parameters())
            say(parameters=parameters, seed=options.seed, torch=torch.__version__, steps=first.steps)
            taught(model, made, first, say)
        say(stage="last", steps=last.steps, alone=ALONE, long=LONG, before=judged_alone(model, made, 1_000))
        taught(model, made, last, say)
    model.save_pretrained(options.folder)
    made.save_pretrained(options.folder)


if __name__ == "__main__":
    main(sys.argv[1:])
