"""From requests to drafts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubes import Kind, Origin
from engine.errors import Invalid, TooLarge
from engine.operations import (
    MAX_CONTENT_CHARS,
    MAX_IDS,
    MAX_MESSAGES,
    MAX_SOURCE_CHARS,
    MAX_TAG_CHARS,
    MAX_TAGS,
    MAX_TURN_CHARS,
    Remember,
    Turn,
)
from engine.reader import RETRIEVAL_UNIT_CHARS, Draft, read
from engine.reader.checks import MAX_EXPIRES_DAYS, MAX_NAME_CHARS
from engine.text.recalled import delimit

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
WEDNESDAY = datetime(2026, 3, 18, tzinfo=UTC)
PROSE = "We talked about the harbour and its boats. " * 100


def drafts(content: str, **fields: object) -> tuple[Draft, ...]:
    return read(replace(Remember(content=content), **fields), NOW).drafts


def one(content: str, **fields: object) -> Draft:
    (draft,) = drafts(content, **fields)
    return draft


# --- content ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("The API port is 8080", Kind.FACT),
        ("Berlin is the capital of Germany", Kind.FACT),
        ("First we had tea and then we left", Kind.FACT),
        ("I prefer dark mode", Kind.PREFERENCE),
        ("User likes tea", Kind.PREFERENCE),
        ("Alice loves hiking", Kind.PREFERENCE),
        ("My favourite colour is green", Kind.PREFERENCE),
        ("Always answer in German; I always want short answers", Kind.PREFERENCE),
        ("How to deploy the site", Kind.PROCEDURE),
        ("To deploy, run make deploy", Kind.PROCEDURE),
        ("Run `make test` to check everything", Kind.PROCEDURE),
        ("1. Install uv\n2. Run make", Kind.PROCEDURE),
        ("We met last Friday", Kind.EVENT),
        ("Dentist appointment next Tuesday at 3pm", Kind.EVENT),
        ("Alice visited Rome in 2021", Kind.EVENT),
    ],
)
def test_the_kind_is_classified_by_rules(text: str, kind: Kind) -> None:
    assert one(text).kind is kind


def test_a_given_kind_is_kept() -> None:
    assert one("I prefer dark mode", kind=Kind.FACT).kind is Kind.FACT
    assert {draft.kind for draft in drafts(PROSE, kind=Kind.PROCEDURE)} == {Kind.PROCEDURE}


def test_relative_words_are_resolved_against_the_given_time() -> None:
    draft = one("We met last Friday", occurred_at=WEDNESDAY)
    assert draft.occurred_at == datetime(2026, 3, 13, tzinfo=UTC)
    assert [mention.text for mention in draft.mentions] == ["last Friday"]


def test_relative_words_are_resolved_against_now_when_no_time_is_given() -> None:
    assert one("We met yesterday").occurred_at == datetime(2026, 11, 19, tzinfo=UTC)


def test_without_words_of_time_the_given_time_stays_and_none_is_made_up() -> None:
    assert one("The port is 8080", occurred_at=WEDNESDAY).occurred_at == WEDNESDAY
    assert one("The port is 8080").occurred_at is None
    assert one("The shop opens at 9am").occurred_at is None
    assert one("Sales grew over the past two weeks", occurred_at=WEDNESDAY).occurred_at == WEDNESDAY


def test_short_text_is_one_draft_with_what_was_passed_on() -> None:
    draft = one("  Text as it is \n", tags=("b", " a ", "b"), source="notes.txt")
    assert draft.content == "  Text as it is \n"
    assert (draft.tags, draft.source, draft.part_of) == (("b", "a"), "notes.txt", None)


def test_long_text_is_a_whole_and_pieces_that_cover_it() -> None:
    whole, *parts = drafts(PROSE, occurred_at=WEDNESDAY, tags=("t",))
    assert whole.kind is Kind.DOCUMENT
    assert whole.content == "".join(part.content for part in parts) == PROSE
    assert all(part.part_of == 0 and len(part.content) <= RETRIEVAL_UNIT_CHARS for part in parts)
    assert all(part.tags == ("t",) and part.occurred_at == WEDNESDAY for part in parts)
    assert all(part.content.endswith("boats. ") for part in parts)


def test_a_piece_has_the_mentions_of_its_own_words() -> None:
    whole, *parts = drafts("We met last Friday. " + PROSE + "We meet tomorrow.", occurred_at=WEDNESDAY)
    assert [mention.text for mention in whole.mentions] == ["last Friday", "tomorrow"]
    assert [mention.text for mention in parts[0].mentions] == ["last Friday"]
    assert [mention.text for mention in parts[-1].mentions] == ["tomorrow"]
    assert whole.occurred_at == WEDNESDAY


def test_names_are_found_where_they_are_told_from_first_words() -> None:
    draft = one(
        "Yesterday Alice Smith met @bob in Berlin. She wrote to a@mail.example. See https://www.docs.example/x."
    )
    assert draft.entities == ("Alice Smith", "@bob", "Berlin", "mail.example", "docs.example")
    assert one("Bob's dog is called Rex").entities == ("Bob", "Rex")
    assert one("Everything works. Nothing broke.").entities == ()


# --- conversations ----------------------------------------------------------------------------------------------


def turns(*contents: str, minutes: int = 1) -> tuple[Turn, ...]:
    return tuple(
        Turn("assistant" if number % 2 else "user", content, at=WEDNESDAY + timedelta(minutes=minutes * number))
        for number, content in enumerate(contents)
    )


def test_each_turn_is_one_draft_verbatim_and_in_order() -> None:
    contents = (" Hi!\n", PROSE, "See you tomorrow", "ok")
    read_drafts = read(Remember(messages=turns(*contents), tags=("t",), source="chat-7"), NOW).drafts
    assert tuple(draft.content for draft in read_drafts) == contents
    assert [draft.position for draft in read_drafts] == [0, 1, 2, 3]
    assert {draft.session for draft in read_drafts} == {"chat-7"}
    assert all(draft.kind is Kind.MESSAGE and draft.part_of is None for draft in read_drafts)
    assert all(draft.tags == ("t",) and draft.source == "chat-7" for draft in read_drafts)


def test_a_turn_happened_when_it_was_said_and_its_words_are_resolved_against_that() -> None:
    first, second = read(Remember(messages=turns("hello", "we met last Friday")), NOW).drafts
    assert first.occurred_at == WEDNESDAY
    assert second.occurred_at == WEDNESDAY + timedelta(minutes=1)
    assert second.mentions[0].start == datetime(2026, 3, 13, tzinfo=UTC)


def test_a_turn_without_a_time_has_that_of_the_request() -> None:
    (draft,) = read(Remember(messages=(Turn("user", "see you tomorrow"),), occurred_at=WEDNESDAY), NOW).drafts
    assert draft.occurred_at == WEDNESDAY
    assert draft.mentions[0].start == WEDNESDAY + timedelta(days=1)


def test_the_speaker_is_the_name_or_else_the_role() -> None:
    messages = (Turn("user", "hi", name="Alice"), Turn("assistant", "hello"))
    assert [(d.role, d.actor) for d in read(Remember(messages=messages), NOW).drafts] == [
        ("user", "Alice"),
        ("assistant", "assistant"),
    ]


def test_a_conversation_sent_again_and_longer_has_the_same_session() -> None:
    short = read(Remember(messages=turns("a", "b", "c")), NOW).drafts
    longer = read(Remember(messages=turns("a", "b", "c", "d")), NOW + timedelta(days=3)).drafts
    other = read(Remember(messages=turns("a", "x", "c")), NOW).drafts
    assert {draft.session for draft in short} == {draft.session for draft in longer}
    assert {draft.session for draft in short} != {draft.session for draft in other}


@pytest.mark.parametrize("source", [None, "chat-7"])
def test_a_long_silence_begins_another_session(source: str | None) -> None:
    messages = (
        *turns("a", "b"),
        *(replace(turn, at=turn.at and turn.at + timedelta(hours=7)) for turn in turns("c", "d")),
    )
    read_drafts = read(Remember(messages=messages, source=source), NOW).drafts
    names = [draft.session for draft in read_drafts]
    assert names[0] == names[1] != names[2] == names[3]
    assert [draft.position for draft in read_drafts] == [0, 1, 0, 1]


def test_turns_of_an_earlier_day_are_another_session_and_a_clock_that_jitters_is_not() -> None:
    first, *_ = turns("a")
    jitter = replace(first, content="b", at=WEDNESDAY - timedelta(minutes=3))
    earlier = replace(first, content="c", at=WEDNESDAY - timedelta(days=2))
    names = [draft.session for draft in read(Remember(messages=(first, jitter, earlier)), NOW).drafts]
    assert names[0] == names[1] != names[2]


# --- recalled text ----------------------------------------------------------------------------------------------

BLOCK = delimit("m_1", {"kind": "fact"}, "The port is 8080")


def test_content_that_is_only_recalled_is_no_new_knowledge() -> None:
    reading = read(Remember(content=f"\n{BLOCK}\n{delimit('m_2', {}, 'x')} "), NOW)
    (draft,) = reading.drafts
    assert draft.origin is Origin.RETRIEVAL
    assert draft.echoed == reading.echoed == ("m_1", "m_2")


def test_what_stands_beside_recalled_text_is_kept() -> None:
    draft = one(f"I see: {BLOCK} and now it is 9090")
    assert draft.content == "I see:  and now it is 9090"
    assert (draft.origin, draft.echoed) == (Origin.USER, ("m_1",))


def test_a_turn_that_is_only_recalled_keeps_its_place() -> None:
    reading = read(Remember(messages=turns("what is the port?", BLOCK, "thanks")), NOW)
    assert [draft.origin for draft in reading.drafts] == [Origin.USER, Origin.RETRIEVAL, Origin.USER]
    assert reading.drafts[1].echoed == reading.echoed == ("m_1",)


# --- refusals ---------------------------------------------------------------------------------------------------

HELLO = (Turn("user", "hello"),)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Remember(), "neither of content and messages"),
        (Remember(content="a", messages=HELLO), "both of content and messages"),
        (Remember(content=""), "content is empty"),
        (Remember(content=" \n\t\u3000"), "content is empty"),
        (Remember(content="a\x00b"), r"content holds NUL \(U\+0000\) at position 1"),
        (Remember(content="ab\x1b[0m"), r"control character \(U\+001B\) at position 2"),
        (Remember(content="ab\x85"), r"control character \(U\+0085\)"),
        (Remember(content="a\ud800b"), r"lone surrogate \(U\+D800\) at position 1"),
        (Remember(messages=(Turn("robot", "a"),)), r"messages\[0\].role is unknown: use one of user"),
        (Remember(messages=(*HELLO, Turn("user", " "))), r"messages\[1\].content is empty"),
        (Remember(messages=(Turn("user", "a", name="b\x00"),)), r"messages\[0\].name holds NUL"),
        (Remember(messages=HELLO, kind=Kind.FACT), "kept as kind message, not fact"),
        (Remember(content="a", tags=("ok", "")), r"tags\[1\] is empty"),
        (Remember(content="a", tags=("a\x00",)), r"tags\[0\] holds NUL"),
        (Remember(content="a", source=" "), "source is empty"),
        (Remember(content="a", expires_in_days=0), "greater than 0"),
        (Remember(content="a", expires_in_days=-1), "greater than 0"),
        (Remember(content="a", expires_in_days=float("nan")), "greater than 0"),
        (Remember(content="a", expires_in_days=float("inf")), "greater than 0"),
        (Remember(content="a", occurred_at=datetime(999, 12, 31, tzinfo=UTC)), "occurred_at is out of range"),
        (Remember(content="a", occurred_at=datetime(3000, 1, 1, tzinfo=UTC)), "occurred_at is out of range"),
        (Remember(content="a", occurred_at=datetime(2026, 1, 1)), "occurred_at has no time zone"),
        (
            Remember(messages=(Turn("user", "a", at=datetime(1, 1, 1, tzinfo=UTC)),)),
            r"messages\[0\].at is out of range",
        ),
        (Remember(content="password: Tr0ub4dor&3"), "seems to hold a secret"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_its_place_and_the_remedy(request_: Remember, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        read(request_, NOW)


@pytest.mark.parametrize(
    ("request_", "fits"),
    [
        (Remember(content="a" * (MAX_CONTENT_CHARS + 1)), Remember(content="a" * MAX_CONTENT_CHARS)),
        (Remember(messages=HELLO * (MAX_MESSAGES + 1)), Remember(messages=HELLO * 10)),
        (
            Remember(messages=(Turn("user", "a" * (MAX_TURN_CHARS + 1)),)),
            Remember(messages=(Turn("user", "a" * MAX_TURN_CHARS),)),
        ),
        (Remember(messages=(Turn("user", "a" * MAX_CONTENT_CHARS),) * 101), Remember(messages=HELLO)),
        (
            Remember(messages=(Turn("user", "a", name="n" * (MAX_NAME_CHARS + 1)),)),
            Remember(messages=(Turn("user", "a", name="n" * MAX_NAME_CHARS),)),
        ),
        (Remember(content="a", tags=("t",) * (MAX_TAGS + 1)), Remember(content="a", tags=("t",) * MAX_TAGS)),
        (
            Remember(content="a", tags=("t" * (MAX_TAG_CHARS + 1),)),
            Remember(content="a", tags=("t" * MAX_TAG_CHARS,)),
        ),
        (
            Remember(content="a", source="s" * (MAX_SOURCE_CHARS + 1)),
            Remember(content="a", source="s" * MAX_SOURCE_CHARS),
        ),
        (Remember(content="a", supersedes=("m",) * (MAX_IDS + 1)), Remember(content="a", supersedes=("m",) * MAX_IDS)),
        (
            Remember(content="a", expires_in_days=MAX_EXPIRES_DAYS + 1),
            Remember(content="a", expires_in_days=MAX_EXPIRES_DAYS),
        ),
    ],
    ids=lambda request: "",
)
def test_a_bound_passed_is_too_large_and_a_bound_reached_is_not(request_: Remember, fits: Remember) -> None:
    with pytest.raises(TooLarge):
        read(request_, NOW)
    assert read(fits, NOW).drafts


def test_a_refusal_holds_no_content() -> None:
    with pytest.raises(Invalid) as refusal:
        read(Remember(content="my private diary\x00"), NOW)
    assert "diary" not in str(refusal.value)


instants = st.none() | st.datetimes(datetime(1000, 1, 2), datetime(2999, 12, 30)).map(lambda d: d.replace(tzinfo=UTC))
zones = st.integers(-56, 56).map(lambda quarters: timezone(timedelta(minutes=15 * quarters)))


@given(st.text(max_size=200), instants, zones)
def test_any_text_is_read_or_refused_and_what_is_read_is_verbatim(
    text: str, at: datetime | None, zone: timezone
) -> None:
    moment = None if at is None else at.astimezone(zone)
    try:
        whole, *parts = drafts(text, occurred_at=moment)
    except Invalid:
        return
    assert whole.content == text
    assert parts == []
    (turn,) = read(Remember(messages=(Turn("user", text, at=moment),)), NOW).drafts
    assert (turn.content, turn.occurred_at) == (text, moment)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit", ["a", ".", "\n", "Aa ", "monday ", '<memory id="m_1">', "1 ", "to a ", "I like tea. ", "a@", "“", "run ` "]
)
def test_the_longest_hostile_texts_are_read_in_linear_time(unit: str) -> None:
    text = (unit * MAX_CONTENT_CHARS)[: MAX_CONTENT_CHARS - 1] + "x"
    whole, *parts = drafts(text)
    assert whole.content == "".join(part.content for part in parts) == text
