"""Where sentences end, and how a long text is cut into pieces.

Rules, not a model: terminators followed by white space, kept apart from abbreviations, initials, ellipses and list
numbers; CJK full stops; blank lines; list items, headings and table rows; fenced code as one unit. A dot inside a
word (decimals, versions, URLs) ends nothing. Both functions take time linear in the text, whatever it holds, and
`pieces` always covers the whole text verbatim.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right

from engine.text.tables import word_set

NEVER_FINAL = word_set("""
    mr mrs ms dr prof st sr rev hon gen col sgt capt lt vs e.g i.e eg ie cf no nr fig figs eq sec ch vol pp
    approx ca dept est incl excl al
""")
"""Abbreviations that something always follows."""

SELDOM_FINAL = word_set("""
    etc inc ltd co corp jr a.m p.m am pm u.s u.k jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed
    thu fri min max ph.d b.c a.d
""")
"""Abbreviations that end a sentence only where a capital follows."""

# One pass over the text. Terminator runs are taken whole (possessive), and what follows is judged in code: a condition
# inside the pattern would be retried at every dot of a long run.
_BREAK = re.compile(
    r"""
      (?P<fence>^[ \t]*(?:```|~~~)[\s\S]*?(?:^[ \t]*(?:```|~~~)[ \t]*$|\Z))
    | (?P<cjk>[。！？｡]++[」』”’）\)]*+)
    | (?P<stop>[.!?…]++["'”’»)\]]*+)
    | (?P<line>\n)
    """,
    re.VERBOSE | re.MULTILINE,
)
_MARKED_LINE = re.compile(r"[ \t]*(?:[-*+•‣–][ \t]+|\d{1,3}[.)][ \t]+|\#{1,6}[ \t]|>|\||```|~~~|\n|\r\n)")
_WHOLE_LINE = re.compile(r"[ \t]*(?:\#{1,6}[ \t]|\|)")
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘]*$")
_LIST_NUMBER = re.compile(r"(?:^|\n)[ \t]*\d{1,3}$")
LOOKBACK_CHARS = 24  # longer than any abbreviation


def sentences(text: str) -> list[tuple[int, int]]:
    """The sentences of `text` as slices `[start, end)` in order, without the white space around them."""
    spans = []
    start = 0
    for end in [*_ends(text), len(text)]:
        span = _trimmed(text, start, end)
        if span:
            spans.append(span)
        start = max(start, end)
    return spans


def pieces(text: str, max_chars: int) -> list[tuple[int, int]]:
    """Contiguous slices of at most `max_chars` characters that cover `text` whole: joined, they are the text.

    Each cut is at the last paragraph bound in the later half of what fits, else at the last sentence bound in the
    later three quarters, else between words, else (no white space at all) between characters that do not combine.
    """
    if max_chars < 1:
        raise ValueError("max_chars must be at least 1")
    if len(text) <= max_chars:
        return [(0, len(text))] if text else []
    sentence_ends = _after_spaces(text, _ends(text))
    paragraph_ends = [match.end() for match in re.finditer(r"\n[ \t\r]*\n\s*+", text)]
    cuts = []
    start = 0
    while len(text) - start > max_chars:
        limit = start + max_chars
        cut = (
            _last_between(paragraph_ends, start + max_chars // 2, limit)
            or _last_between(sentence_ends, start + max_chars // 4, limit)
            or _word_cut(text, start, limit)
            or _character_cut(text, start, limit)
        )
        cuts.append((start, cut))
        start = cut
    cuts.append((start, len(text)))
    return cuts


def _ends(text: str) -> list[int]:
    ends: list[int] = []
    line_start = 0
    for match in _BREAK.finditer(text):
        end = match.end()
        if match["fence"] is not None:
            if match.start() > 0:
                ends.append(match.start())
            ends.append(end)
        elif match["cjk"] is not None:
            ends.append(end)
        elif match["line"] is not None:
            if _MARKED_LINE.match(text, end) or _WHOLE_LINE.match(text, line_start, match.start()):
                ends.append(end)
            line_start = end
        elif _stops(text, match.start("stop"), end, match["stop"]):
            ends.append(end)
    return ends


def _stops(text: str, start: int, end: int, mark: str) -> bool:
    """Whether the terminator run `mark` at `[start, end)` ends a sentence."""
    if end < len(text) and not text[end].isspace():
        return False
    following = next((char for char in text[end : end + LOOKBACK_CHARS] if not char.isspace()), "")
    if mark.startswith(("..", "…")):
        return not following.islower()
    if not mark.startswith("."):
        return True
    before = text[max(0, start - LOOKBACK_CHARS) : start]
    found = _LAST_WORD.search(before)
    word = found[0] if found else ""
    if word.isdecimal() and _LIST_NUMBER.search(before):
        return False
    if len(word) == 1 and word.isupper() and word != "I":
        return False
    folded = word.lower()
    if folded in NEVER_FINAL:
        return not following
    return folded not in SELDOM_FINAL or not following or following.isupper()


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None


def _after_spaces(text: str, ends: list[int]) -> list[int]:
    """Each of the sorted `ends` moved behind the white space that follows it; no space is looked at twice."""
    moved: list[int] = []
    position = 0
    for end in ends:
        position = max(position, end)
        while position < len(text) and text[position].isspace():
            position += 1
        moved.append(position)
    return moved


def _last_between(positions: list[int], low: int, high: int) -> int:
    """The last of the sorted `positions` in `(low, high]`, or 0."""
    index = bisect_right(positions, high)
    return positions[index - 1] if index and positions[index - 1] > low else 0


def _word_cut(text: str, start: int, limit: int) -> int:
    for position in range(limit, start, -1):
        if text[position - 1].isspace() and text[position - 1 : position + 1] != "\r\n":
            return position
    return 0


JOINERS = "\u200d\ufe0e\ufe0f"
LONGEST_CLUSTER_CHARS = 32  # past this a run of combining characters is not a character any more


def _character_cut(text: str, start: int, limit: int) -> int:
    """The last position up to `limit` that does not part what is read as one character."""
    for position in range(limit, max(start, limit - LONGEST_CLUSTER_CHARS), -1):
        if not _joined(text, start, position):
            return position
    return limit


def _joined(text: str, start: int, position: int) -> bool:
    before, after = text[position - 1], text[position]
    if before == "\u200d" or after in JOINERS or unicodedata.combining(after) or (before, after) == ("\r", "\n"):
        return True
    if "\ud800" <= before <= "\udbff" and "\udc00" <= after <= "\udfff":
        return True
    if "\U0001f3fb" <= after <= "\U0001f3ff":
        return True
    if _is_flag(before) and _is_flag(after):
        flags = 0
        while flags < LONGEST_CLUSTER_CHARS and position - flags > start and _is_flag(text[position - flags - 1]):
            flags += 1
        return flags % 2 == 1
    return False


def _is_flag(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"
