"""The token budget: as many of the best memories as fit, whole.

A content is never cut: half a memory can say the opposite of the whole. One that does not fit is passed over, the ones
after it still get their chance, and `omitted` says how many were passed over, so that the caller can ask again with
more room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.operations import Recollection

CHARS_PER_TOKEN = 4  # of English text, as common tokenizers cut it
WIDE_CHARS_PER_TOKEN = 1  # of scripts that they do not know well
HEADER_TOKENS = 12  # id, date and separators around each memory


@dataclass(frozen=True, slots=True)
class Kept:
    memories: tuple[Recollection, ...]
    omitted: int


def fit(found: Sequence[Recollection], limit: int, max_tokens: int) -> Kept:
    """Of the first `limit`, those that fit, in order."""
    left = max_tokens
    kept = []
    for item in found[:limit]:
        cost = tokens(item.memory.content)
        if cost <= left:
            left -= cost
            kept.append(item)
    return Kept(tuple(kept), len(found[:limit]) - len(kept))


def tokens(content: str) -> int:
    """About how many tokens a memory takes; rather too many than too few for unusual scripts."""
    if content.isascii():
        return HEADER_TOKENS + -(-len(content) // CHARS_PER_TOKEN)
    plain = sum(character.isascii() for character in content)
    return HEADER_TOKENS + -(-plain // CHARS_PER_TOKEN) + (len(content) - plain) // WIDE_CHARS_PER_TOKEN
