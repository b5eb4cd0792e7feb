"""The table of time expressions that `engine.text.dates` reads: a name, a pattern, and what it resolves to.

Rules are tried in order and the first to claim a part of the text keeps it, so longer expressions stand above the
shorter ones that they contain. Each resolver gets the match and its context, and returns a span in the anchor's local
time (or None: not a time after all). Raising ValueError or OverflowError means that there is no such date. Conventions
are documented in `engine.text.dates`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

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
from engine.text.clock_times import WEEKDAY_NAMES, compiled
from engine.text.tables import word_list


class Rule(NamedTuple):
    name: str
    pattern: re.Pattern[str]
    resolve: Callable[[re.Match[str], Context], Span | None]


NUMBERS = {
    word: value
    for value, word in enumerate(word_list("zero one two three four five six seven eight nine ten eleven twelve"))
} | {"a": 1, "an": 1, "a couple": 2, "a couple of": 2, "a few": 3, "several": 3}

_NUMBER = (
    r"(?P<n>\d{1,4}|an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
    r"|a\s+couple(?:\s+of)?|a\s+few|several)"
)
_UNIT = r"(?P<unit>minutes?|mins?|hours?|hrs?|days?|weeks?|fortnights?|months?|years?|decades?)\b"
_SHORT_WEEKDAYS = r"(?-i:Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun)"
_WEEKDAY = rf"(?P<weekday>{WEEKDAY_NAMES})\b(?!s\b)"
_WEEKDAY_SHORT = rf"(?P<weekday>{WEEKDAY_NAMES}|{_SHORT_WEEKDAYS})\b"
_LEADING_WEEKDAY = rf"(?:(?:{WEEKDAY_NAMES}|{_SHORT_WEEKDAYS})\b,? )?"
_LONG_MONTHS = r"january|february|april|june|july|september|october|november|december"
_SHORT_MONTHS = r"jan|feb|apr|jun|jul|sept?|oct|nov|dec|(?-i:Mar|Aug)"
_MONTH = (
    rf"(?P<month>(?:{_LONG_MONTHS}|{_SHORT_MONTHS}|(?-i:March|May|August|MARCH|MAY|AUGUST))\b)"
    r"(?:(?:(?<=\b[a-z]{3})|(?<=\bsept))\.)?"
)
_MONTH_FULL = (
    r"(?P<month>january|february|march|april|june|july|august|september|october|november|december|(?-i:May))\b"
)
_SEASON = r"(?P<season>spring|summer|autumn|fall|winter)\b"
_DAY = r"(?P<day>[12]\d|3[01]|0?[1-9])"
_YEAR = r"(?P<year>(?:1[89]|20|21)\d\d)"
_BEFORE = r"(?<![\w./@#$€£-])"
_AFTER = r"(?![\w/]|[-:.,]\d|-\w)"
_NOT_A_YEAR = (
    r"(?!\s*(?:%|€|\$|(?:dollars?|euros?|pounds?|people|users?|steps?|words?|chars?|characters?|lines?|rows?|items?|bytes?|"
    r"km|kg|miles?|meters?|metres?|points?|cases?|ways?|places?|tokens?|files?|of)\b))"
)

TRIGGER = re.compile(
    r"\b(?:today|yesterday|tomorrow|tonight|last|next|this|coming|past|ago|later|earlier|from now|"
    r"in|within|before|after|since|during|following|spring|summer|autumn|winter|noon|midnight|"
    r"(?:mon|tues|wednes|thurs|fri|satur|sun)day|(?-i:Mon|Tue|Wed|Thu|Fri|Sat|Sun)|\d{1,4}(?:st|nd|rd|th|am|pm)?|"
    rf"{_LONG_MONTHS}|{_SHORT_MONTHS}|march|may|august)\b",
    re.IGNORECASE,
)


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


def _iso(m: re.Match[str], c: Context) -> Span | None:
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


def _numeric(m: re.Match[str], c: Context) -> Span | None:
    """Month first, as in 03/05/2024 = March 5, unless only day first is a date; with dots always day first."""
    first, second, year = int(m["a"]), int(m["b"]), int(m["year"])
    year += 2000 if len(m["year"]) == 2 else 0
    day_first = m["sep"] == "." or first > 12
    return day_span(datetime(year, second, first) if day_first else datetime(year, first, second))


def _month_day(m: re.Match[str], c: Context) -> Span | None:
    month, day = _month(m["month"]), int(m["day"])
    year = m["year"]
    start = datetime(int(year), month, day) if year else nearest(c, lambda year: datetime(year, month, day))
    last = m["last"] and start.replace(day=int(m["last"]))
    if last and last > start:
        return Span(start, last + timedelta(days=1))
    return day_span(start)


def _month_year(m: re.Match[str], c: Context) -> Span | None:
    return month_span(int(m["year"]), _month(m["month"]))


def _in_month(m: re.Match[str], c: Context) -> Span | None:
    month = _month(m["month"])
    start = nearest(c, lambda year: datetime(year, month, 1))
    return month_span(start.year, month)


def _in_year(m: re.Match[str], c: Context) -> Span | None:
    return year_span(int(m["year"]), 10 if m["decade"] else 1) if not m["decade"] or m["year"][3] == "0" else None


def _quarter(m: re.Match[str], c: Context) -> Span | None:
    start = datetime(int(m["year"]), 3 * int(m["q"]) - 2, 1)
    return Span(start, add_months(start, 3), unit="quarter")


def _season_year(m: re.Match[str], c: Context) -> Span | None:
    return season_span(int(m["year"]), SEASONS[m["season"].lower()])


def _day_of_month(m: re.Match[str], c: Context) -> Span | None:
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


def _day_word(m: re.Match[str], c: Context) -> Span | None:
    return day_span(c.day + timedelta(days=_DAY_WORDS[" ".join(m["word"].lower().split())]))


def _tonight(m: re.Match[str], c: Context) -> Span | None:
    return Span(c.day + timedelta(hours=18), c.day + timedelta(days=1), unit="part")


def _last_night(m: re.Match[str], c: Context) -> Span | None:
    return Span(c.day - timedelta(hours=6), c.day + timedelta(hours=6), unit="part")


def _this_part(m: re.Match[str], c: Context) -> Span | None:
    low, high = DAY_PARTS[m["part"].lower()]
    return Span(c.day + timedelta(hours=low), c.day + timedelta(hours=high), unit="part")


def _beside_weekday(m: re.Match[str], c: Context) -> Span | None:
    side = _side(m["side"])
    weekday = _weekday(m["weekday"])
    if side == 0:
        return day_span(week_start(c.day) + timedelta(days=weekday))
    return day_span(weekday_near(c.day, weekday, side))


def _weekday_of_week(m: re.Match[str], c: Context) -> Span | None:
    side = _side(m["side"])
    return day_span(week_start(c.day) + timedelta(weeks=side, days=_weekday(m["weekday"])))


def _bare_weekday(m: re.Match[str], c: Context) -> Span | None:
    if _RECURRING.search(c.before) or _HABIT.match(c.after):
        return None
    return day_span(weekday_near(c.day, _weekday(m["weekday"]), -1 if c.speaks_of_past else 1))


_RECURRING = re.compile(r"\b(?:every|each|any|most|black|good|cyber|ash|easter|palm|giving)\s+$", re.IGNORECASE)
_HABIT = re.compile(r"s\b|'s\b|’s\b|\s+(?:mornings|afternoons|evenings|nights)\b", re.IGNORECASE)


def _beside_unit(m: re.Match[str], c: Context) -> Span | None:
    """The calendar's week, month or year beside the anchor's, or that of the anchor."""
    return unit_span(c.day, _unit(m["unit"]), _side(m["side"]))


def _second_beside(m: re.Match[str], c: Context) -> Span | None:
    return unit_span(c.day, _unit(m["unit"]), -2 if m["side"].lower() == "before" else 2)


def _weekend(m: re.Match[str], c: Context) -> Span | None:
    side = _side(m["side"])
    saturday = week_start(c.day) + timedelta(days=5)
    if side > 0:
        saturday += timedelta(weeks=1)
    elif side < 0:
        saturday -= timedelta(weeks=1)
    return Span(saturday, saturday + timedelta(days=2), unit="weekend")


def _beside_season(m: re.Match[str], c: Context) -> Span | None:
    side, first = _side(m["side"]), SEASONS[m["season"].lower()]
    spans = [season_span(c.day.year + step, first) for step in (-2, -1, 0, 1, 2)]
    if side < 0:
        return [span for span in spans if span.end <= c.day][-1]
    if side > 0:
        return next(span for span in spans if span.start > c.day)
    return next(span for span in spans if span.start.year == c.day.year or span.start <= c.day < span.end)


def _beside_month(m: re.Match[str], c: Context) -> Span | None:
    side, month = _side(m["side"]), _month(m["month"])
    spans = [month_span(c.day.year + step, month) for step in (-1, 0, 1)]
    if side < 0:
        return [span for span in spans if span.end <= c.day][-1]
    if side > 0:
        return next(span for span in spans if span.start > c.day)
    return spans[1]


def _stretch(m: re.Match[str], c: Context) -> Span | None:
    """The past two weeks, the next three days: up to the anchor, or from it on."""
    side = _side(m["side"])
    far = c.moved(side * _count(m["n"] or "1"), _unit(m["unit"]))
    return Span(far, c.anchor, unit="range") if side < 0 else Span(c.anchor, far, unit="range")


def _within(m: re.Match[str], c: Context) -> Span | None:
    return Span(c.anchor, c.moved(_count(m["n"]), _unit(m["unit"])), unit="range")


def _ago(m: re.Match[str], c: Context) -> Span | None:
    return c.unit_at(-_count(m["n"]), _unit(m["unit"]))


def _half_hour_ago(m: re.Match[str], c: Context) -> Span | None:
    start = c.anchor - timedelta(minutes=30)
    return Span(start, start + timedelta(minutes=1), exact=True)


def _ahead(m: re.Match[str], c: Context) -> Span | None:
    return c.unit_at(_count(m["n"]), _unit(m["unit"]))


def _from_mention(m: re.Match[str], c: Context) -> Span | None:
    sign = -1 if m["way"].lower().split()[0] in {"earlier", "before", "prior"} else 1
    return c.from_previous().unit_at(sign * _count(m["n"]), _unit(m["unit"]))


def _following(m: re.Match[str], c: Context) -> Span | None:
    after = c.from_previous()
    if m["unit"].lower() == "day":
        return after.unit_at(1, "day")
    return unit_span(after.day, _unit(m["unit"]), 1)


RULES = tuple(
    Rule(name, compiled(pattern), resolve)
    for name, pattern, resolve in (
        (
            "2024-03-05, 2024-03-05T10:00Z",
            r"(?<![\w./-])(?P<year>\d{4})-(?P<m>\d\d)-(?P<d>\d\d)"
            r"(?:[Tt\s](?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.\d{1,9})?)?(?P<zone>Z|[+-]\d\d:\d\d)?)?"
            + _AFTER,
            _iso,
        ),
        ("2024/03/05", _BEFORE + r"(?P<year>\d{4})/(?P<m>\d\d)/(?P<d>\d\d)(?P<hour>)?(?P<zone>)?" + _AFTER, _iso),
        (
            "03/05/2024, 5.3.2024",
            _BEFORE + r"(?P<a>\d{1,2})(?P<sep>[/.])(?P<b>\d{1,2})(?P=sep)(?P<year>\d{4}|\d\d(?<=/\d\d))" + _AFTER,
            _numeric,
        ),
        (
            "March 3rd, March 3-5 2024",
            rf"\b{_LEADING_WEEKDAY}(?:the )?{_MONTH} (?:the )?{_DAY}(?:st|nd|rd|th)?"
            rf"(?:\s?[-–]\s?(?P<last>[12]\d|3[01]|[1-9])(?:st|nd|rd|th)?\b)?(?:,?\s+{_YEAR})?" + _AFTER,
            _month_day,
        ),
        (
            "3 March 2024, 3rd of March",
            rf"(?<![\w.:/-]){_LEADING_WEEKDAY}(?:the )?{_DAY}(?:st|nd|rd|th)?"
            rf"(?:\s?[-–]\s?(?P<last>[12]\d|3[01]|[1-9])(?:st|nd|rd|th)?)?(?: of)? {_MONTH}(?:,?\s+{_YEAR})?" + _AFTER,
            _month_day,
        ),
        ("March 2024", rf"\b{_MONTH}(?: of|,)? {_YEAR}{_AFTER}", _month_year),
        ("summer of 2023", rf"\b{_SEASON}(?: of)? {_YEAR}{_AFTER}", _season_year),
        ("Q3 2024", rf"\bQ(?P<q>[1-4])(?: of)? {_YEAR}{_AFTER}", _quarter),
        ("day before yesterday", r"\b(?:the )?(?P<word>day before yesterday|day after tomorrow)\b", _day_word),
        ("week before last", r"\b(?:the )?(?P<unit>week|month|year) (?P<side>before) last\b", _second_beside),
        ("week after next", r"\b(?:the )?(?P<unit>week|month|year) (?P<side>after) next\b", _second_beside),
        ("last night", r"\blast night\b", _last_night),
        ("tonight", r"\btonight\b", _tonight),
        ("this morning", r"\bthis (?P<part>morning|afternoon|evening)\b", _this_part),
        ("earlier today", r"\b(?:earlier |later )?(?P<word>today|yesterday|tomorrow)\b(?!['’]s)", _day_word),
        (
            "Friday last week",
            rf"\b{_WEEKDAY}(?: of| in)? (?:the )?(?P<side>last|this|next|previous|following) week\b",
            _weekday_of_week,
        ),
        ("next week on Friday", rf"\b(?P<side>last|this|next) week (?:on )?{_WEEKDAY}", _weekday_of_week),
        (
            "last Friday",
            rf"\b(?P<side>last|past|previous|this|this past|next|this coming|coming) {_WEEKDAY_SHORT}",
            _beside_weekday,
        ),
        ("last weekend", r"\b(?P<side>last|past|previous|this|next|coming|this coming|this past) weekend\b", _weekend),
        (
            "past two weeks",
            rf"\b(?:(?:in|over|during|for|within|through|throughout) )?(?:the|these) "
            rf"(?P<side>last|past|previous|next|coming) (?:{_NUMBER} )?{_UNIT}",
            _stretch,
        ),
        ("last 2 weeks", rf"\b(?P<side>last|past|previous|next|coming) {_NUMBER} {_UNIT}", _stretch),
        ("within two weeks", rf"\bwithin {_NUMBER} {_UNIT}(?! (?:of|after|before)\b)", _within),
        (
            "last week, this year",
            r"\b(?P<side>last|past|previous|this|next|coming) (?P<unit>week|month|year|decade)\b(?!['’]s\b)",
            _beside_unit,
        ),
        ("last summer", rf"\b(?P<side>last|past|this|this past|next|this coming|coming) {_SEASON}", _beside_season),
        (
            "next March",
            rf"\b(?P<side>last|past|this past|next|this coming|coming|this(?= (?-i:[A-Z]))) {_MONTH_FULL}",
            _beside_month,
        ),
        ("half an hour ago", r"\bhalf an hour ago\b", _half_hour_ago),
        ("two weeks ago", rf"\b(?:about |around )?{_NUMBER} {_UNIT} (?:ago|back)\b", _ago),
        ("two weeks from now", rf"\b{_NUMBER} {_UNIT} from (?:now|today)\b", _ahead),
        (
            "3 days later",
            rf"\b{_NUMBER} {_UNIT} (?P<way>later|afterwards?|earlier|after (?:that|this)|before (?:that|this)|prior\b)",
            _from_mention,
        ),
        (
            "in two weeks",
            rf"\bin (?:about |around )?{_NUMBER} {_UNIT}(?!['’]?s? (?:ago|old|earlier|later)\b)",
            _ahead,
        ),
        ("the following week", r"\b(?:the )(?:following|next) (?P<unit>day|week|month|year)\b", _following),
        (
            "in March",
            rf"\b(?:in|since|until|till|by|during|throughout|of)(?: early| mid| late|)(?: |-){_MONTH_FULL}(?! on\b)",
            _in_month,
        ),
        ("in may", r"\b(?:in|since|during) (?P<month>may)\b(?! (?:i|we|you|they|he|she|it|be)\b)", _in_month),
        (
            "on the 5th",
            rf"\b(?:on|by|until|since) the {_DAY}(?:st|nd|rd|th)\b"
            r"(?! (?:of|floor|day|time|place|row|page|line|attempt|try|street|avenue)\b)",
            _day_of_month,
        ),
        ("on Fri", rf"\bon (?P<weekday>{_SHORT_WEEKDAYS})\b", _bare_weekday),
        ("Friday", rf"\b(?:on )?{_WEEKDAY}", _bare_weekday),
        (
            "in 2021, in the 1990s",
            rf"\b(?:in|since|during|until|till|by|before|after|from|of|around|circa)"
            rf"(?: the)?(?: early| mid| late)? {_YEAR}(?P<decade>s)?" + _AFTER + _NOT_A_YEAR,
            _in_year,
        ),
    )
)
