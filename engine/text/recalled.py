"""Recalled text is data: it is delimited when it goes out, and recognised when it comes back.

`<memory id="m_…" kind="fact">content</memory>`: content is escaped, so that it can neither close its block nor open
another, whatever it holds. What a client sends to be remembered is searched for such blocks, so that a memory is not
stored again as new knowledge. Nothing here knows what a memory is, beyond its id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

REMARK = "[memory] "  # begins each line beside the blocks: it is about them, and no more to be stored than they are
ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}\Z")
NAME = re.compile(r"[a-z][a-z0-9_-]*\Z")

# A tag of ours inside content, in any spelling that a reader could take for one; `&` is escaped only where leaving it
# would make two contents look alike.
_TAG_INSIDE = re.compile(r"<(?=[\s/]*+memory)|&(?=(?:amp;)*+lt;[\s/]*+memory)", re.IGNORECASE)
_TAG = re.compile(r'<memory id="([A-Za-z0-9_.:-]{1,128})"(?: [a-z][a-z0-9_-]*="[^"<>]*")*+>|</memory>')
_REMARKS = re.compile(rf"^{re.escape(REMARK)}.*\n?", re.MULTILINE)
_ATTRIBUTE_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}
)


def delimit(memory_id: str, attributes: Mapping[str, str], content: str) -> str:
    """`content` as one block that says which memory it is.

    Raises:
        ValueError: an id or an attribute name that does not fit into a tag. Both come from us, never from content.
    """
    if not ID.match(memory_id):
        raise ValueError("a memory id of letters, digits and _ . : - is needed")
    for name in attributes:
        if not NAME.match(name) or name == "id":
            raise ValueError(f"{name!r} cannot name an attribute")
    shown = "".join(f' {name}="{value.translate(_ATTRIBUTE_ESCAPES)}"' for name, value in attributes.items())
    return f'<memory id="{memory_id}"{shown}>{escape(content)}</memory>'


def escape(content: str) -> str:
    """`content` with everything that could be read as a tag of ours made harmless, and nothing else changed."""
    return _TAG_INSIDE.sub(lambda match: "&lt;" if match[0] == "<" else "&amp;", content)


def remark(text: str) -> str:
    """A line about recalled memories, marked so that it is recognised when it comes back."""
    return REMARK + " ".join(text.split())


def blocks(text: str) -> list[tuple[str, str]]:
    """The blocks in `text`: the id that each claims, and the content between its tags, escaped as it stands there."""
    return [(opened[1], text[opened.end() : closed.start()]) for opened, closed in _blocks(text)]


def _blocks(text: str) -> Iterator[tuple[re.Match[str], re.Match[str]]]:
    opened: re.Match[str] | None = None
    for tag in _TAG.finditer(text):
        if tag[1] is not None:
            opened = tag  # one that was open already is not ours: our content never holds a tag
        elif opened is not None:
            yield opened, tag
            opened = None


def take_out(text: str, is_ours: Callable[[str, str], bool] = lambda id, content: True) -> tuple[str, tuple[str, ...]]:
    """What is left of `text` without its blocks of recalled memory, and the ids of these, in order, each once.

    `is_ours(id, escaped content)` says whether a block is what we gave out: anything else is somebody's own words and
    stays. Where there are blocks of ours, the remarks that went out with them are taken out too.
    """
    if "</memory>" not in text:
        return text, ()
    kept: list[str] = []
    ids: dict[str, None] = {}
    done = 0
    for opened, closed in _blocks(text):
        if is_ours(opened[1], text[opened.end() : closed.start()]):
            kept.append(text[done : opened.start()])
            ids[opened[1]] = None
            done = closed.end()
    if not ids:
        return text, ()
    kept.append(text[done:])
    rest = "".join(kept)
    return _REMARKS.sub("", rest), tuple(ids)
