"""Text to token ids and back: what a person or a memory says never becomes a control token, and no space is made up.

`Tokens` turns texts into ids piece by piece, so that the same text has the same ids wherever it stands. Template pieces
are read by the model's own tokenizer. Contents (turns, notes) are read by a copy of it that does three things else:

- Control tokens are not recognised. The library's switch for that (`encode_special_tokens`, which
  `split_special_tokens=True` sets and leaves set) covers only tokens that are marked as special; tokens such as
  `<think>` or `<tool_call>` often are not. In the copy all that look like control tokens are marked so.
- No space is put in front (tokenizers of the sentencepiece kind do so with every text, also in mid-prompt).
- Nothing is added at either end: the beginning-of-text token comes from the template or not at all.

`Spelling` turns the ids of a reply into text as they come. It never shows half a character.

It knows no roles, no prompts and no tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary, ref

from tokenizers import AddedToken, Tokenizer

from engine.errors import Unavailable

LOOKS_LIKE_CONTROL = re.compile(r"\s*[<\[].*[>\]]\s*", re.DOTALL)
HALF = "\N{REPLACEMENT CHARACTER}"  # how tokenizers decode bytes that are no whole character


class Tokens:
    """A tokenizer, for pieces of a prompt."""

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise Unavailable(
                f"the tokenizer {type(tokenizer).__name__} has no tokenizer.json: use a model with a fast tokenizer"
            )
        added: dict[int, AddedToken] = backend.get_added_tokens_decoder()
        control = {
            id: one.content for id, one in added.items() if one.special or LOOKS_LIKE_CONTROL.fullmatch(one.content)
        }
        self._own = ref(tokenizer)  # who has these tokens has the tokenizer; it must not be kept by them
        self._inert = _inert(backend, added, frozenset(control))
        self._control_ids = frozenset(control) - {tokenizer.unk_token_id}
        words = sorted(filter(None, control.values()), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, words)) or r"(?!)", re.IGNORECASE)

    def text(self, text: str) -> tuple[int, ...]:
        """Ids of a content: no control token is among them, whatever it says."""
        ids = self._encoded(text)
        if not self._control_ids.isdisjoint(ids):  # a vocabulary of words may hold them as words too
            parts = [self._encoded(part) for part in self._broken(text)]
            ids = [id for part in parts for id in part if id not in self._control_ids]
        return tuple(ids)

    def template(self, text: str, *, first: bool) -> tuple[int, ...]:
        """Ids of a piece of the template, with its control tokens. `first`: it begins the prompt."""
        control = self._control.search(text)
        plain = 0 if first else control.start() if control else len(text)
        ids = list[int](self._encoded(text[:plain]))
        if text[plain:]:
            own: Any = self._own()
            ids += own(text[plain:], add_special_tokens=False, split_special_tokens=False)["input_ids"]
        return tuple(ids)

    def leading_control(self, text: str) -> int | None:
        """The control token that `text` begins with, spaces aside."""
        text = text.lstrip()
        if not self._control.match(text):
            return None
        first = self.template(text, first=True)[0]
        return first if first in self._control_ids else None

    def _encoded(self, text: str) -> list[int]:
        return list(self._inert.encode(text, add_special_tokens=False).ids) if text else []

    def _broken(self, text: str) -> Iterator[str]:
        """The text, with each name of a control token in two parts."""
        at = 0
        for found in self._control.finditer(text):
            yield text[at : found.start() + 1]
            at = found.start() + 1
        yield text[at:]


_known: WeakKeyDictionary[Any, Tokens] = WeakKeyDictionary()


def tokens_for(tokenizer: Any) -> Tokens:
    """The `Tokens` of a tokenizer, made once. To be called on the model's thread.

    Raises:
        Unavailable: it is not a fast tokenizer.
    """
    if tokenizer not in _known:
        _known[tokenizer] = Tokens(tokenizer)
    return _known[tokenizer]


class Spelling:
    """The text of a reply whose tokens come one at a time.

    Put together, what it gives is the decoded whole; bytes at its end that are no whole character are left out.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._silent = frozenset(tokenizer.all_special_ids)
        self._ids: list[int] = []  # the last shown ones, for what stands between words, and those not yet shown
        self._settled = 0  # of them, whose text is shown for good
        self._shown = 0  # characters of their text that are shown

    def add(self, token: int) -> str:
        """What can be shown now that `token` is known."""
        if token in self._silent:
            return ""
        self._ids.append(token)
        text = self._decoded(self._ids)
        sure = text.rstrip(HALF)
        new, self._shown = sure[self._shown :], max(self._shown, len(sure))
        if new and sure == text:
            self._ids, self._settled = self._ids[self._settled :], len(self._ids) - self._settled
            self._shown = len(self._decoded(self._ids))
        return new

    def _decoded(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _inert(backend: Tokenizer, added: dict[int, AddedToken], control: frozenset[int]) -> Tokenizer:
    """A tokenizer over the same vocabulary (which is shared, not copied) that adds nothing and obeys nothing."""
    layout: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": _without_prepend(_description(backend.normalizer)),
        "pre_tokenizer": _never_prepending(_description(backend.pre_tokenizer)),
        "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"": 0}, "unk_token": ""},
    }  # fmt: skip
    made = Tokenizer.from_str(json.dumps(layout))
    made.model = backend.model
    for id, one in sorted(added.items()):
        made.add_tokens(
            [
                AddedToken(
                    one.content, single_word=one.single_word, lstrip=one.lstrip, rstrip=one.rstrip,
                    normalized=one.normalized, special=id in control,
                )
            ]
        )  # fmt: skip
    made.encode_special_tokens = True
    return made


def _description(step: Any) -> dict[str, Any] | None:
    return None if step is None else json.loads(step.__getstate__())


def _without_prepend(step: dict[str, Any] | None) -> dict[str, Any] | None:
    if step is None or step["type"] == "Prepend":
        return None
    if step["type"] == "Sequence":
        step["normalizers"] = [kept for one in step["normalizers"] if (kept := _without_prepend(one))]
    return step


def _never_prepending(step: dict[str, Any] | None) -> dict[str, Any] | None:
    if step is None:
        return None
    for one in step.get("pretokenizers", ()):
        _never_prepending(one)
    if step["type"] == "Metaspace":
        step["prepend_scheme"] = "never"
    elif step["type"] == "ByteLevel":
        step["add_prefix_space"] = False
    return step
