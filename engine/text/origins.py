"""What a memory's source said of it besides its words: which thing of that source it is, and what it is about.

`Descriptive.metadata` is a JSON object as canonical text. Two of its fields have a meaning everywhere: `from` and `id`
name the program and the thing in it that became this memory, and `about` names the subject that its words leave out
("likes tea", said about Anna). All other fields are the source's own. Pure functions; nothing here knows a format.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

FROM, ID, ABOUT = "from", "id", "about"
READER = "reader"  # how a model drew it out of a conversation: no part of where it is from
ADAPTER = "adapter"  # which adapter asserts it, and how surely: no part of it either
KEPT = 1_024  # a memory is compared with several others


def same_origin(known: str | None, new: str | None) -> bool:
    """Whether a new memory with the words of a known one is that one, as far as their sources say.

    What comes without metadata is: the words alone decide. Two things of one program are the same only if it says so;
    without an id of its own, a thing is all that is said of it.
    """
    if new is None or known == new or not (now := _fields(new)):
        return True
    return known is not None and ID in now and _identity(_fields(known)) == _identity(now)


def other_subject(known: str | None, new: str | None) -> bool:
    """Whether both are said to be about something, and not about the same: then they cannot contradict."""
    if known is None or new is None:
        return False
    old_about, new_about = _fields(known).get(ABOUT), _fields(new).get(ABOUT)
    return old_about is not None and new_about is not None and old_about != new_about


def _identity(fields: dict[str, Any]) -> tuple[Any, Any]:
    return fields.get(FROM), fields.get(ID)


@lru_cache(maxsize=KEPT)
def _fields(metadata: str) -> dict[str, Any]:
    found = json.loads(metadata)
    told = found.items() if isinstance(found, dict) else ()
    return {name: value for name, value in told if name not in (READER, ADAPTER)}
