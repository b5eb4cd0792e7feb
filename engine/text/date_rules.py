"""The table of time expressions that `engine.text.dates` reads: a name, a pattern, and what it resolves to.

Rules are tried in order and the first to claim a part of the text keeps it, so longer expressions stand above the
shorter ones that they contain. Each resolver gets the match and its context, and returns a span in the anchor's local
time (or None: not a time after all). Raising ValueError or OverflowError means that there is no such date. Conventions
are documented in `engine.text.dates`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from engine.text import date_meanings as means
from engine.text.calendar import Context, Span
from engine.text.clock_times import WEEKDAY_NAMES, compiled
from engine.text.tables import word_list


class Rule(NamedTuple):
    """`needs`: the rule is tried only where one of these stands (`#`: a digit), which is faster to see."""

    name: str
    needs: tuple[str, ...]
    pattern: re.Pattern[str]
    resolve: Callable[[re.Match[str], Context], Span | None]


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


RULES = tuple(
    Rule(name, word_list(needs), compiled(pattern), resolve)
    for name, needs, pattern, resolve in (
        (
            "2024-03-05, 2024-03-05T10:00Z",
            "#",
            r"(?<![\w./-])(?P<year>\d{4})-(?P<m>\d\d)-(?P<d>\d\d)"
            r"(?:[Tt\s](?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.\d{1,9})?)?(?P<zone>Z|[+-]\d\d:\d\d)?)?"
            + _AFTER,
            means.iso,
        ),
        (
            "2024/03/05",
            "#",
            _BEFORE + r"(?P<year>\d{4})/(?P<m>\d\d)/(?P<d>\d\d)(?P<hour>)?(?P<zone>)?" + _AFTER,
            means.iso,
        ),
        (
            "03/05/2024, 5.3.2024",
            "#",
            _BEFORE + r"(?P<a>\d{1,2})(?P<sep>[/.])(?P<b>\d{1,2})(?P=sep)(?P<year>\d{4}|\d\d(?<=/\d\d))" + _AFTER,
            means.numeric,
        ),
        (
            "March 3rd, March 3-5 2024",
            "#",
            rf"\b{_LEADING_WEEKDAY}(?:the )?{_MONTH} (?:the )?{_DAY}(?:st|nd|rd|th)?"
            rf"(?:\s?[-–]\s?(?P<last>[12]\d|3[01]|[1-9])(?:st|nd|rd|th)?\b)?(?:,?\s+{_YEAR})?" + _AFTER,
            means.month_day,
        ),
        (
            "3 March 2024, 3rd of March",
            "#",
            rf"(?<![\w.:/-]){_LEADING_WEEKDAY}(?:the )?{_DAY}(?:st|nd|rd|th)?"
            rf"(?:\s?[-–]\s?(?P<last>[12]\d|3[01]|[1-9])(?:st|nd|rd|th)?)?(?: of)? {_MONTH}(?:,?\s+{_YEAR})?" + _AFTER,
            means.month_day,
        ),
        ("March 2024", "#", rf"\b{_MONTH}(?: of|,)? {_YEAR}{_AFTER}", means.month_year),
        ("summer of 2023", "#", rf"\b{_SEASON}(?: of)? {_YEAR}{_AFTER}", means.season_year),
        ("Q3 2024", "#", rf"\bQ(?P<q>[1-4])(?: of)? {_YEAR}{_AFTER}", means.quarter),
        (
            "day before yesterday",
            "yesterday tomorrow",
            r"\b(?:the )?(?P<word>day before yesterday|day after tomorrow)\b",
            means.day_word,
        ),
        (
            "week before last",
            "last",
            r"\b(?:the )?(?P<unit>week|month|year) (?P<side>before) last\b",
            means.second_beside,
        ),
        (
            "week after next",
            "next",
            r"\b(?:the )?(?P<unit>week|month|year) (?P<side>after) next\b",
            means.second_beside,
        ),
        ("last night", "last", r"\blast night\b", means.last_night),
        ("tonight", "tonight", r"\btonight\b", means.tonight),
        ("this morning", "this", r"\bthis (?P<part>morning|afternoon|evening)\b", means.this_part),
        (
            "earlier today",
            "today yesterday tomorrow",
            r"\b(?:earlier |later )?(?P<word>today|yesterday|tomorrow)\b(?!['’]s)",
            means.day_word,
        ),
        (
            "Friday last week",
            "week",
            rf"\b{_WEEKDAY}(?: of| in)? (?:the )?(?P<side>last|this|next|previous|following) week\b",
            means.weekday_of_week,
        ),
        ("next week on Friday", "week", rf"\b(?P<side>last|this|next) week (?:on )?{_WEEKDAY}", means.weekday_of_week),
        (
            "last Friday",
            "last past previous this next coming",
            rf"\b(?P<side>last|past|previous|this|this past|next|this coming|coming) {_WEEKDAY_SHORT}",
            means.beside_weekday,
        ),
        (
            "last weekend",
            "weekend",
            r"\b(?P<side>last|past|previous|this|next|coming|this coming|this past) weekend\b",
            means.weekend,
        ),
        (
            "past two weeks",
            "last past previous next coming",
            rf"\b(?:(?:in|over|during|for|within|through|throughout) )?(?:the|these) "
            rf"(?P<side>last|past|previous|next|coming) (?:{_NUMBER} )?{_UNIT}",
            means.stretch,
        ),
        (
            "last 2 weeks",
            "last past previous next coming",
            rf"\b(?P<side>last|past|previous|next|coming) {_NUMBER} {_UNIT}",
            means.stretch,
        ),
        ("within two weeks", "within", rf"\bwithin {_NUMBER} {_UNIT}(?! (?:of|after|before)\b)", means.within),
        (
            "last week, this year",
            "last past previous this next coming",
            r"\b(?P<side>last|past|previous|this|next|coming) (?P<unit>week|month|year|decade)\b(?!['’]s\b)",
            means.beside_unit,
        ),
        (
            "last summer",
            "spring summer autumn fall winter",
            rf"\b(?P<side>last|past|this|this past|next|this coming|coming) {_SEASON}",
            means.beside_season,
        ),
        (
            "next March",
            "last past previous this next coming",
            rf"\b(?P<side>last|past|this past|next|this coming|coming|this(?= (?-i:[A-Z]))) {_MONTH_FULL}",
            means.beside_month,
        ),
        ("half an hour ago", "half", r"\bhalf an hour ago\b", means.half_hour_ago),
        ("two weeks ago", "ago back", rf"\b(?:about |around )?{_NUMBER} {_UNIT} (?:ago|back)\b", means.ago),
        ("two weeks from now", "from", rf"\b{_NUMBER} {_UNIT} from (?:now|today)\b", means.ahead),
        (
            "3 days later",
            "later after earlier before prior",
            rf"\b{_NUMBER} {_UNIT} (?P<way>later|afterwards?|earlier|after (?:that|this)|before (?:that|this)|prior\b)",
            means.from_mention,
        ),
        (
            "in two weeks",
            "in",
            rf"\bin (?:about |around )?{_NUMBER} {_UNIT}(?!['’]?s? (?:ago|old|earlier|later)\b)",
            means.ahead,
        ),
        (
            "the following week",
            "following next",
            r"\b(?:the )(?:following|next) (?P<unit>day|week|month|year)\b",
            means.following,
        ),
        (
            "in March",
            "in since until till by during throughout of",
            rf"\b(?:in|since|until|till|by|during|throughout|of)(?: early| mid| late|)(?: |-){_MONTH_FULL}(?! on\b)",
            means.in_month,
        ),
        (
            "in may",
            "may",
            r"\b(?:in|since|during) (?P<month>may)\b(?! (?:i|we|you|they|he|she|it|be)\b)",
            means.in_month,
        ),
        (
            "on the 5th",
            "#",
            rf"\b(?:on|by|until|since) the {_DAY}(?:st|nd|rd|th)\b"
            r"(?! (?:of|floor|day|time|place|row|page|line|attempt|try|street|avenue)\b)",
            means.day_of_month,
        ),
        ("on Fri", "on", rf"\bon (?P<weekday>{_SHORT_WEEKDAYS})\b", means.bare_weekday),
        ("Friday", "day", rf"\b(?:on )?{_WEEKDAY}", means.bare_weekday),
        (
            "in 2021, in the 1990s",
            "#",
            rf"\b(?:in|since|during|until|till|by|before|after|from|of|around|circa)"
            rf"(?: the)?(?: early| mid| late)? {_YEAR}(?P<decade>s)?" + _AFTER + _NOT_A_YEAR,
            means.in_year,
        ),
    )
)
