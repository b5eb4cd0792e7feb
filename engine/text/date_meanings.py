"""What each time expression means: a match of a rule in `engine.text.date_rules` and its context become a span.

Pure functions, in the anchor's local time. None says that it is not a time after all; ValueError or OverflowError that
there is no such date. Conventions are documented in `engine.text.dates`.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from engine.text.calendar import (
    DAY_PARTS,
    MONTHS,
    SEASONS,
    WEEKDAYS,
    Context,
    Span,
    add_months,
    day_span,
    month_span,
    nearest,
    season_span,
    unit_span,
    week_start,
    weekday_near,
    year_span,
)
from engine.text.tables import word_list

NUMBERS = {
    word: value
    for value, word in enumerate(word_list("zero one two three four five six seven eight nine ten eleven twelve"))
} | {"a": 1, "an": 1, "a couple": 2, "a couple of": 2, "a few": 3, "several": 3}


def _count(text: str) -> int:
    folded = " ".join(text.lower().split())
    return NUMBERS[folded] if folded in NUMBERS else int(folded)


def _unit(text: str) -> str:
    folded = text.lower().rstrip("s")
    return {"min": "minute", "hr": "hour"}.get(folded, folded)


def _month(text: str) -> int:
    return MONTHS[text.lower()[:3]]


def _weekday(text: str) -> int:
    return WEEKDAYS[text.lower()[:3]]


def _side(text: str) -> int:
    """-1 for what looks back, 1 for what looks ahead, 0 for this one."""
    folded = text.lower().split()[-1]
    return -1 if folded in {"last", "past", "previous"} else 0 if folded in {"this", "current"} else 1


# --- absolute dates ---------------------------------------------------------------------------------------------


def iso(m: re.Match[str], c: Context) -> Span | None:
    start = datetime(int(m["year"]), int(m["m"]), int(m["d"]))
    if not m["hour"]:
        return day_span(start)
    start = start.replace(hour=int(m["hour"]), minute=int(m["minute"]), second=int(m["second"] or 0))
    length = timedelta(seconds=1) if m["second"] else timedelta(minutes=1)
    if m["zone"]:
        aware = datetime.fromisoformat(start.isoformat() + m["zone"].upper().replace("Z", "+00:00"))
        start = c.anchor + (aware - c.aware)
        return Span(start, start + length, exact=True)
    return Span(start, start + length)


def numeric(m: re.Match[str], c: Context) -> Span | None:
    """Month first, as in 03/05/2024 = March 5, unless only day first is a date; with dots always day first."""
    first, second, year = int(m["a"]), int(m["b"]), int(m["year"])
    year += 2000 if len(m["year"]) == 2 else 0
    day_first = m["sep"] == "." or first > 12
    return day_span(datetime(year, second, first) if day_first else datetime(year, first, second))


def month_day(m: re.Match[str], c: Context) -> Span | None:
    month, day = _month(m["month"]), int(m["day"])
    year = m["year"]
    start = datetime(int(year), month, day) if year else nearest(c, lambda year: datetime(year, month, day))
    last = m["last"] and start.replace(day=int(m["last"]))
    if last and last > start:
        return Span(start, last + timedelta(days=1))
    return day_span(start)


def month_year(m: re.Match[str], c: Context) -> Span | None:
    return month_span(int(m["year"]), _month(m["month"]))


def in_month(m: re.Match[str], c: Context) -> Span | None:
    month = _month(m["month"])
    start = nearest(c, lambda year: datetime(year, month, 1))
    return month_span(start.year, month)


def in_year(m: re.Match[str], c: Context) -> Span | None:
    return year_span(int(m["year"]), 10 if m["decade"] else 1) if not m["decade"] or m["year"][3] == "0" else None


def quarter(m: re.Match[str], c: Context) -> Span | None:
    start = datetime(int(m["year"]), 3 * int(m["q"]) - 2, 1)
    return Span(start, add_months(start, 3), unit="quarter")


def season_year(m: re.Match[str], c: Context) -> Span | None:
    return season_span(int(m["year"]), SEASONS[m["season"].lower()])


def day_of_month(m: re.Match[str], c: Context) -> Span | None:
    day = int(m["day"])
    tries = [add_months(c.day.replace(day=1), step) for step in (0, -1, 1, -2, 2)]
    starts = []
    for month in tries:
        try:
            starts.append(month.replace(day=day))
        except ValueError:
            continue
    if c.speaks_of_past:
        starts = [start for start in starts if start < c.day]
    elif not c.speaks_of_future:
        return day_span(min(starts, key=lambda start: abs(start - c.day)))
    else:
        starts = [start for start in starts if start >= c.day]
    return day_span(min(starts, key=lambda start: abs(start - c.day)))


# --- relative to the anchor's day -------------------------------------------------------------------------------

_DAY_WORDS = {"today": 0, "yesterday": -1, "tomorrow": 1, "day before yesterday": -2, "day after tomorrow": 2}


def day_word(m: re.Match[str], c: Context) -> Span | None:
    return day_span(c.day + timedelta(days=_DAY_WORDS[" ".join(m["word"].lower().split())]))


def tonight(m: re.Match[str], c: Context) -> Span | None:
    return Span(c.day + timedelta(hours=18), c.day + timedelta(days=1), unit="part")


def last_night(m: re.Match[str], c: Context) -> Span | None:
    return Span(c.day - timedelta(hours=6), c.day + timedelta(hours=6), unit="part")


def this_part(m: re.Match[str], c: Context) -> Span | None:
    low, high = DAY_PARTS[m["part"].lower()]
    return Span(c.day + timedelta(hours=low), c.day + timedelta(hours=high), unit="part")


def beside_weekday(m: re.Match[str], c: Context) -> Span | None:
    side = _side(m["side"])
    weekday = _weekday(m["weekday"])
    if side == 0:
        return day_span(week_start(c.day) + timedelta(days=weekday))
    return day_span(weekday_near(c.day, weekday, side))


def weekday_of_week(m: re.Match[str], c: Context) -> Span | None:
    side = _side(m["side"])
    return day_span(week_start(c.day) + timedelta(weeks=side, days=_weekday(m["weekday"])))


def bare_weekday(m: re.Match[str], c: Context) -> Span | None:
    if _RECURRING.search(c.before) or _HABIT.match(c.after):
        return None
    return day_span(weekday_near(c.day, _weekday(m["weekday"]), -1 if c.speaks_of_past else 1))


_RECURRING = re.compile(r"\b(?:every|each|any|most|black|good|cyber|ash|easter|palm|giving)\s+$", re.IGNORECASE)
_HABIT = re.compile(r"s\b|'s\b|’s\b|\s+(?:mornings|afternoons|evenings|nights)\b", re.IGNORECASE)


def beside_unit(m: re.Match[str], c: Context) -> Span | None:
    """The calendar's week, month or year beside the anchor's, or that of the anchor."""
    return unit_span(c.day, _unit(m["unit"]), _side(m["side"]))


def second_beside(m: re.Match[str], c: Context) -> Span | None:
    return unit_span(c.day, _unit(m["unit"]), -2 if m["side"].lower() == "before" else 2)


def weekend(m: re.Match[str], c: Context) -> Span | None:
    side = _side(m["side"])
    saturday = week_start(c.day) + timedelta(days=5)
    if side > 0:
        saturday += timedelta(weeks=1)
    elif side < 0:
        saturday -= timedelta(weeks=1)
    return Span(saturday, saturday + timedelta(days=2), unit="weekend")


def beside_season(m: re.Match[str], c: Context) -> Span | None:
    side, first = _side(m["side"]), SEASONS[m["season"].lower()]
    spans = [season_span(c.day.year + step, first) for step in (-2, -1, 0, 1, 2)]
    if side < 0:
        return [span for span in spans if span.end <= c.day][-1]
    if side > 0:
        return next(span for span in spans if span.start > c.day)
    return next(span for span in spans if span.start.year == c.day.year or span.start <= c.day < span.end)


def beside_month(m: re.Match[str], c: Context) -> Span | None:
    side, month = _side(m["side"]), _month(m["month"])
    spans = [month_span(c.day.year + step, month) for step in (-1, 0, 1)]
    if side < 0:
        return [span for span in spans if span.end <= c.day][-1]
    if side > 0:
        return next(span for span in spans if span.start > c.day)
    return spans[1]


def stretch(m: re.Match[str], c: Context) -> Span | None:
    """The past two weeks, the next three days: up to the anchor, or from it on."""
    side = _side(m["side"])
    far = c.moved(side * _count(m["n"] or "1"), _unit(m["unit"]))
    return Span(far, c.anchor, unit="range") if side < 0 else Span(c.anchor, far, unit="range")


def within(m: re.Match[str], c: Context) -> Span | None:
    return Span(c.anchor, c.moved(_count(m["n"]), _unit(m["unit"])), unit="range")


def ago(m: re.Match[str], c: Context) -> Span | None:
    return c.unit_at(-_count(m["n"]), _unit(m["unit"]))


def half_hour_ago(m: re.Match[str], c: Context) -> Span | None:
    start = c.anchor - timedelta(minutes=30)
    return Span(start, start + timedelta(minutes=1), exact=True)


def ahead(m: re.Match[str], c: Context) -> Span | None:
    return c.unit_at(_count(m["n"]), _unit(m["unit"]))


def from_mention(m: re.Match[str], c: Context) -> Span | None:
    sign = -1 if m["way"].lower().split()[0] in {"earlier", "before", "prior"} else 1
    return c.from_previous().unit_at(sign * _count(m["n"]), _unit(m["unit"]))


def following(m: re.Match[str], c: Context) -> Span | None:
    after = c.from_previous()
    if m["unit"].lower() == "day":
        return after.unit_at(1, "day")
    return unit_span(after.day, _unit(m["unit"]), 1)
