"""English time expressions, resolved against an anchor to half-open intervals in UTC.

`mentions(text, anchor)` reads the table in `engine.text.date_rules` over the text: pure, without a clock, a locale or
a guess by a model. Days are those of the anchor's own time zone; results are in UTC. Conventions, where people differ:

- *last Friday* is the most recent Friday strictly before the anchor's day, *next Friday* the first strictly after it;
  *this Friday* is the one in the anchor's week. Weeks begin on Monday.
- *on Monday*, *March 3rd*, *in March* without a year look back where their sentence speaks of the past ("we met on
  Monday"), else ahead for weekdays, and to the nearest such date for months and days of months.
- *two weeks ago*, *in two weeks* begin exactly that many units before or after the anchor's day, and are one unit long.
  *Last week*, *next month*, *last year* are whole units of the calendar. *A couple of* is two, *a few* three.
- 03/05/2024 is 5 March's mirror, March 5 (month first), unless that is no date: 13/05/2024 is 13 May. 5.3.2024 is day
  first, 2024-03-05 is ISO.
- Seasons are the northern meteorological ones: spring is March to May, winter December to February.
- *3 days later* counts from the mention before it, else from the anchor. *Since X* runs from X to the anchor.

What only looks like a time is left alone: "May I", "march on", "a second", "the sun", "every Monday", "Black Friday".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cubes import Mention
from engine.text.calendar import DAY_PARTS, Context, Span, beside_day, day_span
from engine.text.clock_times import BESIDE, CLOCK, CLOCK_AFTER, CLOCK_BEFORE_GAP, PART_AFTER, SINCE
from engine.text.date_rules import RULES, TRIGGER

WINDOW_BEFORE_CHARS = 48  # how far an expression reaches before its telling word, and after it
WINDOW_AFTER_CHARS = 64
MAX_WINDOW_CHARS = 512
SINCE_REACH_CHARS = 16
BESIDE_REACH_CHARS = 32
MAX_MENTIONS = 256  # of one text: past this, times are not what it is about


_DIGIT = re.compile(r"\d")


class Found(NamedTuple):
    """A mention and where it stands in the text."""

    start: int
    end: int
    mention: Mention
    unit: str  # day, week, … ; "clock" for a time of day alone; "range" for a stretch that ends or begins at the anchor


def mentions(text: str, anchor: datetime) -> tuple[Mention, ...]:
    """The times that `text` speaks of, in the order of the text, resolved against `anchor` (aware)."""
    return tuple(found.mention for found in find(text, anchor))


def find(text: str, anchor: datetime) -> list[Found]:
    """As `mentions`, with places.

    Raises:
        ValueError: the anchor has no time zone.
    """
    if anchor.tzinfo is None:
        raise ValueError("the anchor must be an aware datetime")
    results: list[Found] = []
    previous: datetime | None = None
    for low, high in _windows(text):
        for item in _in_window(text, low, high, anchor, previous):
            mention = _in_utc(text, item, anchor)
            if mention is not None:
                results.append(Found(item.start, item.end, mention, item.span.unit))
                previous = item.span.start
        if len(results) >= MAX_MENTIONS:
            break
    return results[:MAX_MENTIONS]


class _Item(NamedTuple):
    """A claimed part of the text, and what it resolved to."""

    start: int
    end: int
    span: Span


def _windows(text: str) -> list[tuple[int, int]]:
    """The parts of `text` in which a telling word stands: apart from each other, and none too long to search often."""
    windows: list[tuple[int, int]] = []
    for match in TRIGGER.finditer(text):
        if windows and match.end() + WINDOW_AFTER_CHARS <= windows[-1][1]:
            continue
        low = _space_near(text, match.start() - WINDOW_BEFORE_CHARS, -1)
        high = _space_near(text, match.end() + WINDOW_AFTER_CHARS, 1)
        if windows and low <= windows[-1][1]:
            last_low, last_high = windows[-1]
            if high - last_low <= MAX_WINDOW_CHARS:
                windows[-1] = (last_low, max(high, last_high))
                continue
            low = last_high
        if low < high:
            windows.append((low, high))
    return windows


def _space_near(text: str, position: int, step: int) -> int:
    """The first white space from `position` on in the direction of `step`, if one is near."""
    for _ in range(WINDOW_BEFORE_CHARS):
        if position <= 0 or position >= len(text) or text[position].isspace():
            break
        position += step
    return min(max(position, 0), len(text))


def _in_window(text: str, low: int, high: int, anchor: datetime, previous: datetime | None) -> list[_Item]:
    taken: list[_Item] = []
    local = anchor.replace(tzinfo=None)
    window = text[low:high].lower()
    has_digit = _DIGIT.search(window) is not None
    for rule in RULES:
        if not any(has_digit if need == "#" else need in window for need in rule.needs):
            continue
        for match in rule.pattern.finditer(text, low, high):
            if any(match.start() < item.end and item.start < match.end() for item in taken):
                continue
            earlier = max((item for item in taken if item.end <= match.start()), default=None)
            context = Context(
                text, match.start(), match.end(), local, anchor, earlier.span.start if earlier else previous
            )
            try:
                span = rule.resolve(match, context)
            except (ValueError, OverflowError):  # 31 June, the year 12000
                continue
            if span is not None:
                taken.append(_Item(match.start(), match.end(), span))
    return _with_clock(text, high, local, _all_beside(text, sorted(taken)), low)


def _all_beside(text: str, items: list[_Item]) -> list[_Item]:
    result: list[_Item] = []
    for item in items:
        moved = _beside(text, item)
        while result and result[-1].end > moved.start:  # `the Friday` of `the Friday before 20 May`
            result.pop()
        result.append(moved)
    return result


def _beside(text: str, item: _Item) -> _Item:
    """`The week before 2 April`, `the Friday after March 3rd`: the day, moved by the words before it."""
    if item.span.unit != "day":
        return item
    match = BESIDE.search(text, max(0, item.start - BESIDE_REACH_CHARS), item.start)
    if match is None:
        return item
    side = -1 if match["side"].lower() == "before" else 1
    try:
        return _Item(match.start(), item.end, beside_day(item.span, match["unit"].lower(), side))
    except (ValueError, OverflowError):
        return item


def _with_clock(text: str, high: int, local: datetime, dates: list[_Item], low: int) -> list[_Item]:
    """Clock times and parts of the day joined to the day beside them; alone, they are the anchor's day's."""
    result: list[_Item] = []
    for item in dates:
        if item.span.unit == "day":
            clock = CLOCK_AFTER.match(text, item.end, high)
            part = PART_AFTER.match(text, item.end, high)
            if clock and (moved := _at(item.span.start, clock)):
                item = _Item(item.start, clock.end(), moved)
            elif part:
                first, last = DAY_PARTS[part["part"].lower()]
                start = item.span.start
                item = _Item(
                    item.start, part.end(), Span(start + timedelta(hours=first), start + timedelta(hours=last))
                )
        result.append(item)
    for match in CLOCK.finditer(text, low, high):
        if any(match.start() < item.end and item.start < match.end() for item in result):
            continue
        index = next((i for i, item in enumerate(result) if item.start >= match.end()), None)
        joined = (
            index is not None
            and result[index].span.unit == "day"
            and (CLOCK_BEFORE_GAP.match(text, match.end(), result[index].start))
        )
        if joined and index is not None:
            span = _at(result[index].span.start, match)
            if span:
                result[index] = _Item(match.start(), result[index].end, span)
        elif not text[match.start()].isdecimal():
            span = _at(day_span(local).start, match)
            if span:
                result.append(_Item(match.start(), match.end(), span._replace(unit="clock")))
                result.sort()
    return result


def _at(day: datetime, match: re.Match[str]) -> Span | None:
    """The hour, or the minute if it is named, at which a clock time stands on `day`."""
    named = {key.removeprefix("x"): value for key, value in match.groupdict().items() if value is not None}
    if "word" in named:
        hour, minute = (12, 0) if named["word"].lower() == "noon" else (24, 0)
    elif "half" in named:
        if not 1 <= int(named["hour"]) <= 12:
            return None
        hour = int(named["hour"]) % 12 + (12 if named["half"].lower() == "p" else 0)
        minute = int(named.get("minute", 0))
    else:
        hour, minute = int(named["hour24"]), int(named["minute24"])
    start = day + timedelta(hours=hour, minutes=minute)
    length = timedelta(minutes=1) if "minute" in named or "minute24" in named else timedelta(hours=1)
    return Span(start, start + length, "time")


def _in_utc(text: str, item: _Item, anchor: datetime) -> Mention | None:
    start, end = item.span.start, item.span.end
    local = anchor.replace(tzinfo=None)
    try:
        if item.span.exact:
            instant = anchor.astimezone(UTC)
            begin, finish = instant + (start - local), instant + (end - local)
        else:
            begin = start.replace(tzinfo=anchor.tzinfo).astimezone(UTC)
            finish = end.replace(tzinfo=anchor.tzinfo).astimezone(UTC)
            since = SINCE.search(text, max(0, item.start - SINCE_REACH_CHARS), item.start)
            if (since or text[item.start : item.start + 5].lower() == "since") and begin < anchor:
                finish = anchor.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return Mention(text[item.start : item.end], begin, finish) if begin < finish else None
