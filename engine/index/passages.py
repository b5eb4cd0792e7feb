"""What is embedded for a memory: the whole of it, and, where it is long, each part of it.

The embedder reads 256 tokens, about a thousand characters of English; the rest of a longer text would be deaf to a
query. So a long memory has several vectors: first the whole (of which the embedder reads the beginning, mostly what it
is about), then the parts, cut at sentence bounds. Names, dates and neighbours are not embedded: measured, they only
blur what the text says. Deterministic: a change here is a change of `PASSAGES_VERSION`, after which vectors are made
anew.
"""

from __future__ import annotations

from engine.text.sentences import pieces

PASSAGES_VERSION = 1
PASSAGE_CHARS = 1_000
MAX_PASSAGES = 200  # the key of a vector has room for 256; what lies behind them is found by words


def passages(content: str) -> list[str]:
    """The texts to embed, the whole first; at least one."""
    if len(content) <= PASSAGE_CHARS:
        return [content]
    parts = [content[start:end].strip() for start, end in pieces(content, PASSAGE_CHARS)]
    return [content[: 4 * PASSAGE_CHARS], *[part for part in parts if part][: MAX_PASSAGES - 1]]
