"""Has a model write JSON of a given form: of the tokens that it finds likely, the first that keeps to the form.

What is fixed by the form (braces, names of fields) is not left to the model at all. What stays true: what was written
is always the beginning of something of the form, whatever the model is; a text ends at its bound. It knows nothing of
what is asked, and of the model only its logits and the spelling of its tokens.

`feed` is the form as a machine over characters: a state is what is still to come.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch

from engine.errors import Unavailable
from engine.model.tokens import HALF, LOOKS_LIKE_CONTROL
from engine.text.json_forms import Form, List, Number, Object, Text, Word

TRIED = 512  # of the likeliest tokens; behind them any token that spells what may come serves
TAIL_TOKENS = 16  # by which the next token is spelled
MOST_HALVES = 3  # tokens of one byte that wait for the last of their character
ESCAPED, BLANKS = frozenset('"\\/nt'), "nt"
Waiting = tuple["Part", ...]
"""What is still to come, the next first; empty: it is whole."""


@dataclass(frozen=True, slots=True)
class Exactly:
    text: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """The rests of the words that it may still be; an empty one: it may end here."""

    rests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inside:
    """The inside of a text, up to and with its closing quote."""

    least: int
    most: int
    escaped: bool = False


@dataclass(frozen=True, slots=True)
class Items:
    """The rest of a list, up to and with its closing bracket."""

    item: Form
    least: int
    most: int
    first: bool = True


Part = Exactly | OneOf | Inside | Items


def start(form: Form) -> Waiting:
    """The state before anything is written."""
    match form:
        case Text(most, least):
            return Exactly('"'), Inside(least, most)
        case Word(among):
            return (OneOf(tuple(json.dumps(word, ensure_ascii=False) for word in among)),)
        case Number(lowest, highest):
            return (OneOf(tuple(str(number) for number in range(lowest, highest + 1))),)
        case List(item, most, least):
            return Exactly("["), Items(item, least, most)
        case Object(fields):
            parts: list[Part] = []
            for number, (name, each) in enumerate(fields):
                parts.append(Exactly(("{" if number == 0 else ", ") + json.dumps(name) + ": "))
                parts += start(each)
            return (*parts, Exactly("}"))


def feed(state: Waiting, char: str) -> Waiting | None:
    """The state behind `char`; None: it may not come here."""
    if not state:
        return None
    part, rest = state[0], state[1:]
    match part:
        case Exactly(text):
            return (((Exactly(text[1:]),) if text[1:] else ()) + rest) if char == text[0] else None
        case OneOf(rests):
            narrowed = tuple(word[1:] for word in rests if word[:1] == char)
            if narrowed:
                return rest if narrowed == ("",) else (OneOf(narrowed), *rest)
            return feed(rest, char) if "" in rests else None
        case Inside():
            return _in_text(part, rest, char)
        case Items(item, least, most, first):
            if char == "]":
                return rest if least <= 0 else None
            if most <= 0:
                return None
            more = Items(item, least - 1, most - 1, first=False)
            following = start(item) if first else (Exactly(", "), *start(item))
            return feed((*following, more, *rest), char)


def _in_text(part: Inside, rest: Waiting, char: str) -> Waiting | None:
    if part.escaped:
        return (Inside(part.least - (char not in BLANKS), part.most - 1), *rest) if char in ESCAPED else None
    if char == '"':
        return rest if part.least <= 0 else None
    if char < " " or part.most <= 0:
        return None
    if char == "\\":
        return (Inside(part.least, part.most, escaped=True), *rest)
    # White space alone is no text: a form that wants one wants something in it.
    return (Inside(part.least - (not char.isspace()), part.most - 1), *rest)


def fed(state: Waiting, text: str) -> Waiting | None:
    """The state behind `text`; None: it may not come here."""
    found: Waiting | None = state
    for char in text:
        if found is None:
            return None
        found = feed(found, char)
    return found


def fixed(state: Waiting) -> str:
    """What has to come next, whatever is chosen; empty: there is a choice."""
    text = ""
    for part in state:
        match part:
            case Exactly(exact):
                text += exact
            case Inside(_, most, escaped) if most <= 0 and not escaped:
                text += '"'
            case Items(_, _, most) if most <= 0:
                text += "]"
            case _:
                break
    return text


class FormChooser:
    """Chooses the tokens of one reply so that their text is of the form. `done`: it is whole."""

    def __init__(self, form: Form, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        control = (id for word, id in tokenizer.get_added_vocab().items() if LOOKS_LIKE_CONTROL.fullmatch(word))
        self._special = frozenset((*tokenizer.all_special_ids, *control))
        self._tail: list[int] = []  # the last tokens, by which the next are spelled
        self._shown = ""  # their text, as far as it is whole characters
        self._halves = 0  # how many at the end spell no whole character yet
        self._written = ""
        self._state = start(form)

    @property
    def done(self) -> bool:
        return not self._state

    @property
    def text(self) -> str:
        """What was written so far."""
        return self._written

    def choose(self, logits: torch.Tensor) -> int:
        """The next token, from logits [vocabulary].

        Raises:
            Unavailable: the model's vocabulary cannot spell what has to come.
        """
        must = fixed(self._state)
        if must:
            ids = self._tokenizer(must, add_special_tokens=False)["input_ids"]
            if ids and self._takes(int(ids[0])):
                return int(ids[0])
        tried = logits.topk(min(TRIED, len(logits))).indices.tolist()
        for token in tried:
            if self._takes(int(token)):
                return int(token)
        for token in logits.argsort(descending=True).tolist()[len(tried) :]:
            if self._takes(int(token)):
                return int(token)
        if self._halves:  # bytes that no character begins with: nothing of them was written
            self._tail, self._shown, self._halves = [], "", 0
            return self.choose(logits)
        raise Unavailable("the model's vocabulary cannot spell JSON: give the reader another model (MEMOS_READER)")

    def _takes(self, token: int) -> bool:
        """Whether the token may come; then it is written."""
        if token in self._special:
            return False
        text = self._decoded([*self._tail, token])
        whole = text.rstrip(HALF)
        new, half = whole[len(self._shown) :], len(text) > len(whole)
        if not whole.startswith(self._shown) or HALF in new or (half and self._halves == MOST_HALVES):
            return False
        if not new and not half:
            return False
        state = fed(self._state, new)
        if state is None or (half and not _may_be_anything(state)):
            return False
        self._tail.append(token)
        self._shown, self._halves = whole, (0 if new else self._halves) + 1 if half else 0
        self._state, self._written = state, self._written + new
        if len(self._tail) > 2 * TAIL_TOKENS and not half:
            self._tail = self._tail[-TAIL_TOKENS:]
            self._shown = self._decoded(self._tail).rstrip(HALF)
        return True

    def _decoded(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _may_be_anything(state: Waiting) -> bool:
    """Whether half a character may follow: inside a text that has room."""
    return bool(state) and isinstance(state[0], Inside) and state[0].most > 0 and not state[0].escaped
