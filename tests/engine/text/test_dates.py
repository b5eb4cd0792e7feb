"""Time expressions against an anchor: each convention by example, and what must hold for every anchor."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubes import Mention
from engine.text.dates import MAX_MENTIONS, mentions

WEDNESDAY = datetime(2026, 3, 18, 15, 30, tzinfo=UTC)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
DAY, WEEK = timedelta(days=1), timedelta(weeks=1)

anchors = st.datetimes(datetime(1924, 1, 1), datetime(2032, 12, 31)).map(lambda naive: naive.replace(tzinfo=UTC))
offsets = st.integers(-14 * 4, 14 * 4).map(lambda quarters: timezone(timedelta(minutes=15 * quarters)))


def only(text: str, anchor: datetime = WEDNESDAY) -> Mention:
    found = mentions(text, anchor)
    assert len(found) == 1, found
    return found[0]


def spans(text: str) -> list[tuple[str, str]]:
    return [(f"{m.start:%Y-%m-%d %H:%M}", f"{m.end:%Y-%m-%d %H:%M}") for m in mentions(text, WEDNESDAY)]


def days(first: str, after: str) -> list[tuple[str, str]]:
    return [(f"{first} 00:00", f"{after} 00:00")]


@pytest.mark.parametrize(
    ("text", "first", "after"),
    [
        ("today", "2026-03-18", "2026-03-19"),
        ("We saw her yesterday.", "2026-03-17", "2026-03-18"),
        ("tomorrow then", "2026-03-19", "2026-03-20"),
        ("the day before yesterday", "2026-03-16", "2026-03-17"),
        ("the day after tomorrow", "2026-03-20", "2026-03-21"),
        ("We met last Friday", "2026-03-13", "2026-03-14"),
        ("last Wednesday", "2026-03-11", "2026-03-12"),
        ("next Tuesday", "2026-03-24", "2026-03-25"),
        ("next Thursday", "2026-03-19", "2026-03-20"),
        ("this Monday", "2026-03-16", "2026-03-17"),
        ("on Monday we meet", "2026-03-23", "2026-03-24"),
        ("we met on Monday", "2026-03-16", "2026-03-17"),
        ("Friday last week", "2026-03-13", "2026-03-14"),
        ("next week on Friday", "2026-03-27", "2026-03-28"),
        ("this weekend", "2026-03-21", "2026-03-23"),
        ("last weekend", "2026-03-14", "2026-03-16"),
        ("next weekend", "2026-03-28", "2026-03-30"),
        ("two weeks ago", "2026-03-04", "2026-03-11"),
        ("in two weeks", "2026-04-01", "2026-04-08"),
        ("3 days ago", "2026-03-15", "2026-03-16"),
        ("a couple of months ago", "2026-01-18", "2026-02-18"),
        ("a few days ago", "2026-03-15", "2026-03-16"),
        ("3 days later", "2026-03-21", "2026-03-22"),
        ("last week", "2026-03-09", "2026-03-16"),
        ("this week", "2026-03-16", "2026-03-23"),
        ("next week", "2026-03-23", "2026-03-30"),
        ("the week before last", "2026-03-02", "2026-03-09"),
        ("last month", "2026-02-01", "2026-03-01"),
        ("next month", "2026-04-01", "2026-05-01"),
        ("last year", "2025-01-01", "2026-01-01"),
        ("next year", "2027-01-01", "2028-01-01"),
        ("last spring", "2025-03-01", "2025-06-01"),
        ("this spring", "2026-03-01", "2026-06-01"),
        ("last summer", "2025-06-01", "2025-09-01"),
        ("next winter", "2026-12-01", "2027-03-01"),
        ("last winter", "2025-12-01", "2026-03-01"),
        ("in March", "2026-03-01", "2026-04-01"),
        ("last March", "2025-03-01", "2025-04-01"),
        ("We moved in November", "2025-11-01", "2025-12-01"),
        ("We will move in November", "2026-11-01", "2026-12-01"),
        ("March 3rd", "2026-03-03", "2026-03-04"),
        ("the 3rd of March", "2026-03-03", "2026-03-04"),
        ("3 March 2024", "2024-03-03", "2024-03-04"),
        ("March 3, 2024", "2024-03-03", "2024-03-04"),
        ("Sunday, March 3rd, 2024", "2024-03-03", "2024-03-04"),
        ("Sept. 5, 2023", "2023-09-05", "2023-09-06"),
        ("March 3-5", "2026-03-03", "2026-03-06"),
        ("2024-03-05", "2024-03-05", "2024-03-06"),
        ("2024/03/05", "2024-03-05", "2024-03-06"),
        ("03/05/2024", "2024-03-05", "2024-03-06"),
        ("13/05/2024", "2024-05-13", "2024-05-14"),
        ("5.3.2024", "2024-03-05", "2024-03-06"),
        ("February 29th", "2028-02-29", "2028-03-01"),
        ("on the 5th", "2026-03-05", "2026-03-06"),
        ("in 2021", "2021-01-01", "2022-01-01"),
        ("in the 1990s", "1990-01-01", "2000-01-01"),
        ("March 2024", "2024-03-01", "2024-04-01"),
        ("Q3 2024", "2024-07-01", "2024-10-01"),
        ("the summer of 2023", "2023-06-01", "2023-09-01"),
        ("the week before 2 April 2023", "2023-03-26", "2023-04-02"),
        ("the Friday before 20 May 2023", "2023-05-19", "2023-05-20"),
        ("the weekend after 1 June 2023", "2023-06-03", "2023-06-05"),
    ],
)
def test_days_and_longer_follow_the_documented_conventions(text: str, first: str, after: str) -> None:
    assert spans(text) == days(first, after)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("tomorrow at 5pm", "2026-03-19 17:00", "2026-03-19 18:00"),
        ("at 5:15 p.m. on Friday", "2026-03-20 17:15", "2026-03-20 17:16"),
        ("on Friday at 17:30", "2026-03-20 17:30", "2026-03-20 17:31"),
        ("call me at 5pm", "2026-03-18 17:00", "2026-03-18 18:00"),
        ("9am tomorrow", "2026-03-19 09:00", "2026-03-19 10:00"),
        ("12am tomorrow", "2026-03-19 00:00", "2026-03-19 01:00"),
        ("at noon tomorrow", "2026-03-19 12:00", "2026-03-19 13:00"),
        ("yesterday morning", "2026-03-17 06:00", "2026-03-17 12:00"),
        ("tonight", "2026-03-18 18:00", "2026-03-19 00:00"),
        ("last night", "2026-03-17 18:00", "2026-03-18 06:00"),
        ("this afternoon", "2026-03-18 12:00", "2026-03-18 18:00"),
        ("2024-03-05T10:30Z", "2024-03-05 10:30", "2024-03-05 10:31"),
        ("2024-03-05T10:30+02:00", "2024-03-05 08:30", "2024-03-05 08:31"),
        ("an hour ago", "2026-03-18 14:30", "2026-03-18 15:30"),
        ("in 5 minutes", "2026-03-18 15:35", "2026-03-18 15:36"),
        ("since last Friday", "2026-03-13 00:00", "2026-03-18 15:30"),
        ("since 2021", "2021-01-01 00:00", "2026-03-18 15:30"),
        ("over the past two weeks", "2026-03-04 00:00", "2026-03-18 15:30"),
        ("within three months", "2026-03-18 15:30", "2026-06-18 00:00"),
    ],
)
def test_times_of_day_join_the_date_beside_them(text: str, start: str, end: str) -> None:
    assert spans(text) == [(start, end)]


@pytest.mark.parametrize(
    "text",
    [
        *("May I go?", "You may 5 times", "wait a second", "I second that", "march on the capital", "the sun is out"),
        *("he sat down", "we wed in joy", "every Monday we meet", "Mondays are bad", "Black Friday", "each Friday"),
        *("version 1.2.3", "port 8080", "10.0.0.1", "ratio 3:2", "24/7", "3/4 of it", "call +49 170 1234567"),
        *("Christmas", "fall down", "spring water", "last time", "next steps", "in 2000 steps", "last 5 commits"),
        *("Feb 30th", "2024-13-05", "31/31/2024", "id 2024-03-05-77-x", "1.2024.3", "the day it was", "in one go"),
        *("7:00 AM - 9 AM", "on second thought", "in 9999 years", "today's special", "Monday mornings are slow"),
        *("this may be", "in August 500 people", "the past", "a year", "order 03051234"),
    ],
)
def test_what_only_looks_like_a_time_is_left_alone(text: str) -> None:
    found = [mention.text for mention in mentions(text, WEDNESDAY)]
    assert found in ([], ["in August"])


def test_later_counts_from_the_mention_before_it() -> None:
    found = mentions("We met last Friday. Two days later he left, and a week after that he wrote.", WEDNESDAY)
    assert [mention.start.date() for mention in found] == [date(2026, 3, 13), date(2026, 3, 15), date(2026, 3, 22)]


def test_mentions_keep_the_words_and_the_order_of_the_text() -> None:
    found = mentions("In 2021 we moved; last\nFriday we moved again, tomorrow we rest.", WEDNESDAY)
    assert [mention.text for mention in found] == ["In 2021", "last\nFriday", "tomorrow"]


def test_no_expression_reaches_over_a_blank_line() -> None:
    assert [mention.text for mention in mentions("It ends in August.\n\n2 eggs", WEDNESDAY)] == ["in August"]


def test_days_begin_at_midnight_where_the_anchor_is() -> None:
    late = datetime(2026, 3, 18, 23, 0, tzinfo=timezone(timedelta(hours=-5)))
    assert only("today", late).start == datetime(2026, 3, 18, 5, 0, tzinfo=UTC)
    assert only("today", late.astimezone(UTC)).start == datetime(2026, 3, 19, tzinfo=UTC)


@pytest.mark.skipif("Europe/Berlin" not in available_timezones(), reason="this machine has no time zone data")
def test_a_day_on_which_the_clocks_change_has_23_or_25_hours() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    spring, autumn = datetime(2026, 3, 29, 12, tzinfo=berlin), datetime(2026, 10, 25, 12, tzinfo=berlin)
    assert only("today", spring).end - only("today", spring).start == timedelta(hours=23)
    assert only("today", autumn).end - only("today", autumn).start == timedelta(hours=25)
    assert only("12 hours ago", spring).start == datetime(2026, 3, 28, 22, tzinfo=UTC)


def test_an_anchor_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        mentions("today", datetime(2026, 3, 18))


@given(anchors, offsets, st.sampled_from(WEEKDAYS))
def test_last_and_next_weekday_are_the_nearest_strictly_before_and_after(
    instant: datetime, zone: timezone, weekday: str
) -> None:
    anchor = instant.astimezone(zone)
    today = datetime.combine(anchor.date(), time(), zone)
    last, following = only(f"last {weekday}", anchor), only(f"next {weekday}", anchor)
    for mention in (last, following):
        local = mention.start.astimezone(zone)
        assert WEEKDAYS[local.weekday()] == weekday
        assert local.time() == time()
        assert mention.end - mention.start == DAY
    assert today - WEEK <= last.start < last.end <= today
    assert today + DAY <= following.start <= today + WEEK


@given(anchors, offsets, st.sampled_from(["week", "month", "year"]))
def test_calendar_units_stand_edge_to_edge(instant: datetime, zone: timezone, unit: str) -> None:
    anchor = instant.astimezone(zone)
    row = [only(text, anchor) for text in (f"the {unit} before last", f"last {unit}", f"this {unit}", f"next {unit}")]
    assert all(first.end == second.start for first, second in pairwise(row))
    assert row[2].start <= anchor < row[2].end


@given(anchors, st.integers(1, 400), st.sampled_from(["day", "week", "month", "year"]))
def test_ago_looks_back_and_in_looks_ahead(anchor: datetime, count: int, unit: str) -> None:
    today = datetime.combine(anchor.date(), time(), UTC)
    ago, ahead = only(f"{count} {unit}s ago", anchor), only(f"in {count} {unit}s", anchor)
    assert ago.start < ago.end <= today + timedelta(days=31 if unit == "month" else 0)
    assert ahead.start > today
    if unit in ("day", "week"):
        length = timedelta(**{f"{unit}s": count})
        assert (ago.start, ahead.start) == (today - length, today + length)


@given(st.dates(date(1900, 1, 1), date(2100, 12, 31)), anchors)
def test_a_full_date_is_that_date_however_it_is_written(day: date, anchor: datetime) -> None:
    month = MONTHS[day.month - 1]
    writings = [
        day.isoformat(),
        f"{day.day} {month} {day.year}",
        f"{month} {day.day}, {day.year}",
        f"{day.month:02}/{day.day:02}/{day.year}",
        f"{day.day}.{day.month}.{day.year}",
    ]
    expected = datetime.combine(day, time(), UTC)
    assert [only(text, anchor).start for text in writings] == [expected] * len(writings)


@given(anchors, st.sampled_from(MONTHS), st.integers(1, 31))
def test_a_day_of_a_month_is_one_near_the_anchor(anchor: datetime, month: str, day: int) -> None:
    if (month == "February" and day > 29) or (month in ("April", "June", "September", "November") and day > 30):
        assert mentions(f"{month} {day}", anchor) == ()
        return
    start = only(f"{month} {day}", anchor).start
    assert (MONTHS[start.month - 1], start.day) == (month, day)
    assert abs(start - anchor) < timedelta(days=5 * 366 if day == 29 and month == "February" else 190)


@given(anchors, st.sampled_from(["spring", "summer", "autumn", "fall", "winter"]))
def test_seasons_are_past_present_or_to_come(anchor: datetime, season: str) -> None:
    last, following = only(f"last {season}", anchor), only(f"next {season}", anchor)
    assert last.end <= anchor < following.start
    assert last.start.month == following.start.month
    assert following.start - last.start <= timedelta(days=2 * 366)


WORDS = """last next this Friday monday in two weeks ago March 3rd 2024-03-05 5pm at on the a 12 . , : since yesterday
later 0 99999 31 / - 2024 may of before after weekend 9999-12-31 midnight 24:00"""
words = st.sampled_from([*WORDS.split(), "\n"])


@given(st.lists(words, max_size=14).map(" ".join) | st.text(max_size=60), anchors, offsets)
def test_whatever_stands_there_mentions_are_sound(text: str, instant: datetime, zone: timezone) -> None:
    for mention in mentions(text, instant.astimezone(zone)):
        assert mention.text in text
        assert mention.start < mention.end
        assert mention.start.tzinfo is UTC
        assert mention.end.tzinfo is UTC


@pytest.mark.timeout(30)
@pytest.mark.parametrize("unit", ["1-", "12:", "in a ", "monday ", "last ", "\n", "March ", "1 ", "2024-03-05 ", "\n1"])
def test_hostile_texts_are_read_in_linear_time(unit: str) -> None:
    assert len(mentions(unit * (100_000 // len(unit)), WEDNESDAY)) <= MAX_MENTIONS
