"""Patterns of what stands beside a date and belongs to it: times of day, parts of the day, `since`, `the week before`.

`engine.text.dates` joins them to the dates that the table in `engine.text.date_rules` found.
"""

from __future__ import annotations

import re

WEEKDAY_NAMES = r"monday|tuesday|wednesday|thursday|friday|saturday|sunday"


def compiled(pattern: str) -> re.Pattern[str]:
    """With each space standing for white space within a line, or a line end before a word."""
    return re.compile(pattern.replace(" ", r"(?:[^\S\n]+|[^\S\n]*\n[^\S\n]*(?=[a-z]))"), re.IGNORECASE)


_CLOCK_TIME = (
    r"(?:(?P<hour>\d{1,2})(?::(?P<minute>[0-5]\d))?\s?(?P<half>[ap])(?:m\b|\.m\b\.?)"
    r"|(?P<hour24>[01]?\d|2[0-3]):(?P<minute24>[0-5]\d)(?![:\d])|(?P<word>noon|midnight)\b)"
)
CLOCK_AFTER = compiled(rf"(?:,|\s)?\s*(?:at |around |about |by |from |@\s?)?{_CLOCK_TIME}")
PART_AFTER = re.compile(r"\s+(?:in\s+the\s+)?(?P<part>morning|afternoon|evening|night)\b", re.IGNORECASE)
CLOCK = compiled(
    rf"\b(?:at|around|by|until) (?:about |around )?{_CLOCK_TIME}"
    rf"|(?<![\w:.])(?=\d){_CLOCK_TIME.replace('(?P<', '(?P<x')}"
)
CLOCK_BEFORE_GAP = re.compile(r"(?:\s+on|,)?\s*\Z", re.IGNORECASE)
BESIDE = re.compile(
    rf"\b(?:the\s+)?(?P<unit>day|week|weekend|month|year|{WEEKDAY_NAMES})\s+(?P<side>before|after)\s+\Z", re.IGNORECASE
)
SINCE = re.compile(r"\bsince\s+(?:about\s+|around\s+|the\s+)?\Z", re.IGNORECASE)
