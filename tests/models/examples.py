"""What the small model of the tests is trained on: its words, and examples of them that are drawn from a seed.

An example is token ids, those of them that count, and which of them belong to which note. Nothing here trains.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.models import facts, layouts
from tests.models.facts import UNKNOWN, Fact

FEW_FACTS, MAX_FACTS, QUESTIONS = 8, 12, 6
LONG_TURNS = (8, 50)  # of a long conversation
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

    def long(self) -> Example:
        return self.converse(self._draw.randint(*LONG_TURNS))

    def converse(self, turns: int = 0) -> Example:
        """A conversation: perhaps notes above, perhaps some turns (or `turns`), perhaps notes below, then questions."""
        draw, example = self._draw, Example()
        place = draw.choices((*layouts.PLACES, "nowhere"), (3, 2, 4, 3, 1))[0]
        told, holds = self._told() if place != "nowhere" else ([], [])
        split = {"system": len(told), "pinned": len(told), "both": draw.randint(0, len(told))}.get(place, 0)
        self._system(example, told[:split], bare=place == "system")
        above = {fact.key: fact for fact in told[:split]}
        below = told[split:]
        if below:
            for _ in range(turns or self._earlier_turns()):
                asked = draw.choice(told) if draw.random() < 0.7 else facts.unsaid(draw, told)
                # What was answered before the notes below were given may be anything that was true then.
                known = above.get(asked.key, asked if not above and asked in told and draw.random() < 0.7 else None)
                self._turn(example, facts.question(draw, asked), known.value if known else UNKNOWN, counts=bool(above))
        fresh = [fact for fact in holds if sum(other.key == fact.key for other in told) == 2]
        order = fresh * 2 + draw.sample(holds, len(holds))
        for number in range((QUESTIONS if below else max(turns, QUESTIONS)) if told else 2):
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

    def of_case(self, place: str, case: facts.Case) -> Example:
        """A case as an example, with its statements in the `system` turn or as `recalled` notes."""
        example, bare = Example(), place == "system"
        example.add(self.ids(f"{START} system" if bare else f"{START} user {layouts.LEAD}"))
        for number, text in enumerate(case.statements, 1):
            example.add(self.ids(text if bare else f"- {text}"), note=number)
        example.add(self.ids(f"{STOP} {START} user" if bare else layouts.END))
        example.add(self.ids(f"{case.question} {STOP} {START} assistant"))
        example.add(self.ids(f"{case.answer} {STOP}"), counts=True)
        return example

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
