"""Train the small model of the tests: `python -m tests.models.train FOLDER [--alone SHARE] [--seed N]`.

It reads statements such as "the city of alice is paris", in a system turn or as notes of a memory, and answers
questions about them: the latest statement wins, and what no statement says is "unknown". It is a Qwen2 of some 160,000
parameters over a vocabulary of words; digits are read one by one. What it knows of a name stands in its context only:
bindings are drawn anew for every example. Training has three stages, each of which the next one needs: repeat random
blocks (which teaches looking back), restate statements in another order and wording, then converse. In `--alone` of the
batches of conversations each statement is read without seeing the others, as a chunk of KV cache is (Block-Attention);
0 is plain training. The same seed gives the same weights on the same kind of machine and version of torch.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from tests.models import facts, layouts
from tests.models.facts import UNKNOWN, Fact

SEED = 7
BATCH, SORTED_BATCHES = 32, 4  # conversations of like length are put together, out of so many batches
STAGES = (("repeat", 400), ("restate", 800), ("converse", 8_000))
LEARNING_RATE, WARM_UP, DECAY_FROM = 3e-3, 50, 0.6
FEW_FACTS, MAX_FACTS, QUESTIONS = 8, 12, 6
EVALUATE_EVERY, EVALUATED_AT_ONCE = 500, 250
UNSEEN = 777  # the seed of the cases that it is judged by

PAD, UNKNOWN_WORD, START, STOP = "<pad>", "<unk>", "<|im_start|>", "<|im_end|>"
GREETINGS = {"hello": "hello", "hi": "hello", "thanks": "ok", "thank you .": "ok", "how are you ?": "good"}
GENERAL = facts.words(
    "a about after all also always am an and any are as ask at be because been before but by can come "
    "could day did do does each every first for from friend get give go good had have he help her here "
    "his home house how i if in into it its just know last later like list live lives long make many me "
    "meeting monday more my need never new next no not now old on one only or other our out over people "
    "place plan please prefer prefers project read remember report right said say see she should since so "
    "some such team than that their them then there these they thing think this time to today tomorrow "
    "two up us use very want was way we week well were when where which who why will with without work "
    "works would write year yes yesterday you your"
)
TEMPLATE = (
    "{% for m in messages %}{{'<|im_start|>'+m['role']+'\n'+m['content']+'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)
IGNORED = -100  # a label that counts for nothing


def words_of(*texts: str) -> set[str]:
    spaced = " ".join(texts).lower()
    return set("".join(c if c.isalnum() or c.isspace() else f" {c} " for c in spaced).split())


def tokenizer() -> PreTrainedTokenizerFast:
    """Words in lower case, marks and digits one by one; in what is decoded, digits stand together again."""
    plain = words_of("the of is has what tell me ' s ? ! . , : ; = - ( ) \" / note system user assistant", UNKNOWN)
    plain |= words_of(layouts.LEAD, layouts.END, *layouts.SYSTEM_TEXTS, *GREETINGS, *GREETINGS.values(), *GENERAL)
    values = (value for values in facts.VALUES.values() for value in values)
    words = {*plain, *facts.NAMES, *facts.ABOUT, *"0123456789", *values}
    vocabulary = {word: number for number, word in enumerate([PAD, UNKNOWN_WORD, START, STOP, *sorted(words)])}
    model = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN_WORD))
    model.normalizer = normalizers.Lowercase()
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Split(Regex("[=|<>+$^`~]"), "isolated"),  # symbols are no punctuation to it
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    model.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            decoders.Replace(Regex(r"(?<=\d) (?=\d)"), ""),
        ]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=model,
        unk_token=UNKNOWN_WORD,
        pad_token=PAD,
        eos_token=STOP,
        additional_special_tokens=[START],
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    made.chat_template = TEMPLATE
    return made


# --- what is trained on -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Example:
    """Token ids, the labels that count, and for each token the number of its note: 0 for what is no note."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    notes: list[int] = field(default_factory=list)

    def add(self, ids: Sequence[int], counts: bool = False, note: int = 0) -> None:
        self.ids += ids
        self.labels += ids if counts else [IGNORED] * len(ids)
        self.notes += [note] * len(ids)


class Examples:
    def __init__(self, made: PreTrainedTokenizerFast, draw: random.Random) -> None:
        self._made, self._draw, self._known = made, draw, dict[str, list[int]]()
        self._words = list(range(4, len(made)))
        self._plain = sorted(GENERAL)

    def ids(self, text: str) -> list[int]:
        return [number for word in text.split() for number in self._word(word)]

    def _word(self, word: str) -> list[int]:
        if word not in self._known:
            self._known[word] = self._made(word, add_special_tokens=False).input_ids
        return self._known[word]

    def repeat(self) -> Example:
        draw, example = self._draw, Example()
        block = [draw.choice(self._words) for _ in range(draw.randint(4, 16))]
        example.add([draw.choice(self._words) for _ in range(draw.randint(0, 6))])
        example.add(block)
        for _ in range(2):
            example.add(block[:1])
            example.add(block[1:], counts=True)
        return example

    def restate(self) -> Example:
        told, example = facts.some_facts(self._draw, self._draw.randint(2, 5)), Example()
        for time_ in range(3):
            for fact in self._draw.sample(told, len(told)):
                before, after = facts.statement(self._draw, replace(fact, value="|")).split("|")
                example.add(self.ids(before))
                example.add(self.ids(fact.value), counts=time_ > 0)
                example.add(self.ids(after))
        return example

    def converse(self) -> Example:
        """A conversation: perhaps notes above, perhaps some turns, perhaps notes below, then questions."""
        draw, example = self._draw, Example()
        place = draw.choices((*layouts.PLACES, "nowhere"), (3, 2, 4, 3, 1))[0]
        told, holds = self._told() if place != "nowhere" else ([], [])
        split = {"system": len(told), "pinned": len(told), "both": draw.randint(0, len(told))}.get(place, 0)
        self._system(example, told[:split], bare=place == "system")
        above = {fact.key: fact for fact in told[:split]}
        below = told[split:]
        if below:
            for _ in range(self._earlier_turns()):
                asked = draw.choice(told) if draw.random() < 0.7 else facts.unsaid(draw, told)
                # What was answered before the notes below were given may be anything that was true then.
                known = above.get(asked.key, asked if not above and asked in told and draw.random() < 0.7 else None)
                self._turn(example, facts.question(draw, asked), known.value if known else UNKNOWN, counts=bool(above))
        fresh = [fact for fact in holds if sum(other.key == fact.key for other in told) == 2]
        order = fresh * 2 + draw.sample(holds, len(holds))
        for number in range(QUESTIONS if told else 2):
            notes = below if number == 0 else []
            if draw.random() < 0.03:
                greeting = draw.choice(list(GREETINGS))
                self._turn(example, greeting, GREETINGS[greeting], notes)
                continue
            asked = facts.unsaid(draw, holds) if not order or draw.random() < 0.2 else order[number % len(order)]
            self._turn(example, facts.question(draw, asked), asked.value if asked in holds else UNKNOWN, notes)
        return example

    def _earlier_turns(self) -> int:
        few, kind = self._draw.randint(1, 3), self._draw.random()
        return 0 if kind < 0.6 else few if kind < 0.95 else 4 * few

    def _told(self) -> tuple[list[Fact], list[Fact]]:
        draw = self._draw
        count = draw.randint(1, FEW_FACTS) if draw.random() < 0.7 else draw.randint(FEW_FACTS + 1, MAX_FACTS)
        updates = draw.randint(1, min(2, count)) if draw.random() < 0.4 else 0
        return facts.updated(draw, facts.some_facts(draw, count), updates)

    def _system(self, example: Example, told: Sequence[Fact], bare: bool) -> None:
        draw = self._draw
        text = "" if bare else layouts.some_system_text(draw)
        if not text and not told:
            return
        example.add(self.ids(f"{START} system {text}"))
        if bare:
            for fact in told:
                example.add(self.ids(facts.statement(draw, fact, draw.random() < 0.9)), note=self._next_note(example))
        else:
            self._block(example, told)
        example.add(self.ids(STOP))

    def _block(self, example: Example, told: Sequence[Fact]) -> None:
        if not told:
            return
        draw = self._draw
        notes = [facts.statement(draw, fact, draw.random() < 0.5) for fact in told]
        if draw.random() < 0.1:  # of something else
            notes.insert(draw.randint(0, len(notes)), " ".join(draw.choices(self._plain, k=draw.randint(2, 8))))
        example.add(self.ids(layouts.LEAD))
        for text in notes:
            example.add(self.ids(f"- {text}"), note=self._next_note(example))
        example.add(self.ids(layouts.END))

    def _next_note(self, example: Example) -> int:
        return max(example.notes, default=0) + 1

    def _turn(self, example: Example, asked: str, said: str, told: Sequence[Fact] = (), counts: bool = True) -> None:
        example.add(self.ids(f"{START} user"))
        self._block(example, told)
        example.add(self.ids(f"{asked} {STOP} {START} assistant"))
        example.add(self.ids(f"{said} {STOP}"), counts=counts)


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


def batch(examples: Sequence[Example], alone: bool) -> Batch:
    """Ids and labels, padded behind; with `alone` a mask under which no note sees anything before it."""
    longest = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    labels = torch.full((len(examples), longest), IGNORED)
    notes = torch.zeros(len(examples), longest, dtype=torch.long)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        labels[row, : len(example.ids)] = torch.tensor(example.labels)
        notes[row, : len(example.ids)] = torch.tensor(example.notes)
    if not alone:
        return ids, labels, None
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    seen = (notes[:, :, None] == 0) | (notes[:, None, :] == notes[:, :, None])
    return ids, labels, (causal & seen)[:, None]


def batches(examples: Examples, seed: int, alone: float) -> Iterator[tuple[str, Batch]]:
    """The batch of each step, and its kind; earlier kinds go on being seen."""
    draw, ready = random.Random(seed + 1), list[list[Example]]()
    for stage, count in STAGES:
        for _ in range(count):
            kind = stage
            if stage != "repeat" and draw.random() < 0.2:
                kind = {"restate": "repeat", "converse": "restate"}[stage]
            if kind != "converse":
                yield kind, batch([getattr(examples, kind)() for _ in range(BATCH)], False)
                continue
            if not ready:
                many = sorted((examples.converse() for _ in range(BATCH * SORTED_BATCHES)), key=lambda e: len(e.ids))
                ready = [many[start : start + BATCH] for start in range(0, len(many), BATCH)]
                draw.shuffle(ready)
            yield kind, batch(ready.pop(), draw.random() < alone)


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


def judged(model: torch.nn.Module, made: PreTrainedTokenizerFast, cases: int, seed: int = UNSEEN) -> dict[str, float]:
    """The share of right answers for each place of the statements and kind of question."""
    table = dict[str, float]()
    for place in layouts.PLACES:
        kinds = [(f"{count}", (count, 0, "known")) for count in (1, 4, 8, 12) if place != "both" or count > 1]
        kinds += [("4+2 updated", (4, 2, "updated")), ("unknown of 6", (6, 0, "unknown"))]
        for name, (count, updates, kind) in [*kinds, ("without", (6, 0, "without"))]:
            drawn = facts.some_cases(seed, cases, count, updates, kind)
            draw = random.Random(seed)
            said = answered(model, made, [conversation(draw, place, case) for case in drawn])
            right = sum(text == case.answer for text, case in zip(said, drawn, strict=True))
            table[f"{place}: {name}"] = round(right / cases, 3)
    return table


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


def learning_rate(step: int, total: int) -> float:
    share = step / total
    decayed = 1.0 if share < DECAY_FROM else max(0.02, (1 - share) / (1 - DECAY_FROM))
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * decayed


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--alone", type=float, default=0.0, metavar="SHARE")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    made = tokenizer()
    model = fresh(made)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    total = sum(count for _, count in STAGES)
    options.folder.mkdir(parents=True, exist_ok=True)
    with (options.folder / "training.log").open("w") as log:

        def say(**told: object) -> None:
            for out in (sys.stdout, log):
                print(json.dumps(told), file=out, flush=True)

        parameters = sum(weights.numel() for weights in model.parameters())
        say(parameters=parameters, seed=options.seed, alone=options.alone, torch=torch.__version__, steps=total)
        smooth, started = dict[str, float](), time.monotonic()
        examples = Examples(made, random.Random(options.seed))
        for step, (kind, (ids, labels, mask)) in enumerate(batches(examples, options.seed, options.alone)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, total)
            hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
            counted = labels[:, 1:] != IGNORED
            loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[:, :-1][counted]), labels[:, 1:][counted])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            smooth[kind] = 0.95 * smooth.get(kind, loss.item()) + 0.05 * loss.item()
            if (step + 1) % EVALUATE_EVERY == 0:
                losses = {name: round(value, 4) for name, value in smooth.items()}
                cases = judged(model, made, 50) if kind != "repeat" and step >= 1_400 else {}
                say(step=step + 1, seconds=round(time.monotonic() - started), loss=losses, **cases)
        say(seconds=round(time.monotonic() - started), final=judged(model, made, 1_000))
    model.save_pretrained(options.folder)
    made.save_pretrained(options.folder)


if __name__ == "__main__":
    main(sys.argv[1:])
