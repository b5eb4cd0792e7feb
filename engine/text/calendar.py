"""Arithmetic on days, weeks, months and seasons in the anchor's local time: no text is read here.

All datetimes are naive local ones until `engine.text.dates` turns spans into UTC, so that a day is the anchor's day.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import NamedTuple

WEEKDAYS = {name: index for index, name in enumerate(("mon", "tue", "wed", "thu", "fri", "sat", "sun"))}
MONTHS = {
    name: index
    for index, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}
SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}  # the first month
DAY_PARTS = {"morning": (6, 12), "afternoon": (12, 18), "evening": (18, 24), "night": (18, 30)}  # hours

SENTENCE_REACH_CHARS = 120  # how far around an expression its sentence is searched for its tense
_SENTENCE_BOUND = re.compile(r"[.!?;\n](?=\s|$)|\n")
_PAST = re.compile(
    r"\b(?:was|were|had|did|didn['’]t|went|met|saw|came|got|took|made|said|told|bought|ate|left|found|gave|flew|drove|"
    r"won|lost|sent|wrote|spoke|felt|thought|began|ran|broke|fell|held|kept|paid|sold|slept|spent|taught|caught|heard|"
    r"built|became|brought|chose|drank|swam|sang|wore|woke|knew|grew|threw|rode|read|"
    r"(?!need|feed|speed|proceed|exceed|succeed|hundred|indeed|agreed to|supposed|planned|scheduled|invited|expected)"
    r"[a-z]{2,}ed)\b",
    re.IGNORECASE,
)
_FUTURE = re.compile(
    r"\b(?:will|shall|won['’]t|going to|plans?|planning|upcoming|due|scheduled|remind|deadline|let['’]s|see you)\b"
    r"|['’]ll\b",
    re.IGNORECASE,
)


class Span(NamedTuple):
    """A half-open interval in the anchor's local time, and what it is one of.

    `exact`: counted from the anchor's instant (hours, minutes), so that a change of the clocks between does not matter.
    """

    start: datetime
    end: datetime
    unit: str = "part"
    exact: bool = False


@dataclass(frozen=True)
class Context:
    """Where an expression stands: the text around it, the anchor, and the mention before it."""

    text: str
    start: int
    end: int
    anchor: datetime  # naive, local
    aware: datetime
    previous: datetime | None = None

    @property
    def day(self) -> datetime:
        """Midnight at the beginning of the anchor's day."""
        return midnight(self.anchor)

    @property
    def before(self) -> str:
        return self.text[max(0, self.start - 16) : self.start]

    @property
    def after(self) -> str:
        return self.text[self.end : self.end + 16]

    @cached_property
    def sentence(self) -> str:
        before = self.text[max(0, self.start - SENTENCE_REACH_CHARS) : self.start]
        after = self.text[self.end : self.end + SENTENCE_REACH_CHARS]
        return _SENTENCE_BOUND.split(before)[-1] + " " + _SENTENCE_BOUND.split(after)[0]

    @property
    def speaks_of_future(self) -> bool:
        return bool(_FUTURE.search(self.sentence))

    @property
    def speaks_of_past(self) -> bool:
        return not self.speaks_of_future and bool(_PAST.search(self.sentence))

    def from_previous(self) -> Context:
        """The same place, counting from the mention before it, if there is one."""
        return self if self.previous is None else replace(self, anchor=self.previous)

    def moved(self, count: int, unit: str) -> datetime:
        """The anchor moved by `count` units: whole days and longer from its midnight."""
        if unit in ("minute", "hour"):
            return self.anchor + timedelta(**{f"{unit}s": count})
        return moved(self.day, count, unit)

    def unit_at(self, count: int, unit: str) -> Span:
        """One unit long, beginning `count` units away."""
        start, end = self.moved(count, unit), self.moved(count + 1, unit)
        return Span(start, end, unit, exact=unit in ("minute", "hour"))


def midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def moved(day: datetime, count: int, unit: str) -> datetime:
    if unit == "day":
        return day + timedelta(days=count)
    if unit in ("week", "fortnight"):
        return day + timedelta(weeks=count * (2 if unit == "fortnight" else 1))
    return add_months(day, count * {"month": 1, "quarter": 3, "year": 12, "decade": 120}[unit])


def add_months(day: datetime, count: int) -> datetime:
    """`count` months away, on the same day of the month or the last one that there is."""
    year, month = divmod(day.year * 12 + day.month - 1 + count, 12)
    for last in (day.day, 30, 29, 28):
        if last <= day.day:
            try:
                return day.replace(year=year, month=month + 1, day=last)
            except ValueError:
                continue
    raise ValueError("no such month")


def day_span(day: datetime) -> Span:
    return Span(midnight(day), midnight(day) + timedelta(days=1), "day")


def week_start(day: datetime) -> datetime:
    return midnight(day) - timedelta(days=day.weekday())


def weekday_near(day: datetime, weekday: int, side: int) -> datetime:
    """The nearest such weekday strictly before (-1) or strictly after (1) `day`."""
    if side < 0:
        return day - timedelta(days=(day.weekday() - weekday - 1) % 7 + 1)
    return day + timedelta(days=(weekday - day.weekday() - 1) % 7 + 1)


def month_span(year: int, month: int) -> Span:
    start = datetime(year, month, 1)
    return Span(start, add_months(start, 1), "month")


def year_span(year: int, years: int = 1) -> Span:
    return Span(datetime(year, 1, 1), datetime(year + years, 1, 1), "year")


def season_span(year: int, first_month: int) -> Span:
    start = datetime(year, first_month, 1)
    return Span(start, add_months(start, 3), "season")


def unit_span(day: datetime, unit: str, step: int) -> Span:
    """The calendar's week, month, year or decade `step` away from the one that `day` is in."""
    if unit == "week":
        start = week_start(day) + timedelta(weeks=step)
        return Span(start, start + timedelta(weeks=1), unit)
    if unit == "month":
        start = add_months(midnight(day).replace(day=1), step)
        return Span(start, add_months(start, 1), unit)
    years = 10 if unit == "decade" else 1
    first = day.year - day.year % years + step * years
    return year_span(first, years)._replace(unit=unit)


def beside_day(day: Span, unit: str, side: int) -> Span:
    """The unit, or the weekday of that name, next to `day` on one side of it."""
    if unit[:3] in WEEKDAYS:
        return day_span(weekday_near(day.start, WEEKDAYS[unit[:3]], side))
    if unit == "weekend":
        saturday = weekday_near(day.start, WEEKDAYS["sat"], side)
        return Span(saturday, saturday + timedelta(days=2), unit)
    if unit in ("day", "week"):
        length = timedelta(days=1 if unit == "day" else 7)
        return Span(day.start - length, day.start, unit) if side < 0 else Span(day.end, day.end + length, unit)
    return unit_span(day.start, unit, side)


def nearest(context: Context, in_year: Callable[[int], datetime]) -> datetime:
    """The date that `in_year` gives for a year, in the year that the sentence's tense asks for, else the nearest.

    Raises:
        ValueError: no year near has such a date.
    """
    dates = []
    for year in range(context.day.year - 4, context.day.year + 5):  # a 29 February is at most four years away
        try:
            dates.append(in_year(year))
        except ValueError:
            continue
    if not dates:
        raise ValueError("no such date")
    if context.speaks_of_past:
        dates = [date for date in dates if date <= context.day] or dates
    elif context.speaks_of_future:
        dates = [date for date in dates if date >= context.day.replace(day=1)] or dates
    return min(dates, key=lambda date: (abs(date - context.day), date))
