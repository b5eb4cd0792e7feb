"""Memories as lines: what is written is read again, equal memories have equal lines, and rules hold on both sides."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cubes import (
    Behavioural,
    Descriptive,
    Governance,
    Kind,
    Lineage,
    MalformedCube,
    Mention,
    Origin,
    Relation,
    Sensitivity,
    State,
    Tier,
    TooLargeBundle,
)
from cubes.canonical import canonical_bytes
from cubes.limits import MAX_CONTENT_CHARS, MAX_LINE_BYTES
from cubes.records import PackedMemory, PackedVersion, from_line, from_plain, to_line, to_plain, version_from_plain
from tests.cubes.bundles import memory, rich_memories, version

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
    lambda s: not s.isspace()
)
IDS = st.text("abcXYZ019_-./:", min_size=1, max_size=20)
MOMENTS = st.datetimes(datetime(3, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))
MENTIONS = st.tuples(WORDS, MOMENTS, MOMENTS).map(lambda m: Mention(m[0], min(m[1:]), max(m[1:])))
METADATA = st.none() | st.dictionaries(
    WORDS, st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS
).map(lambda value: canonical_bytes(value).decode())
COUNTS = st.integers(0, 2**31 - 1)


@st.composite
def versions(draw: st.DrawFn, id: str, number: int) -> PackedVersion:
    about = draw(
        st.builds(
            Descriptive,
            id=st.just(id),
            kind=st.sampled_from(Kind),
            created_at=MOMENTS,
            updated_at=MOMENTS,
            occurred_at=st.none() | MOMENTS,
            origin=st.sampled_from(Origin),
            source=st.none() | WORDS,
            actor=st.none() | WORDS,
            role=st.none() | WORDS,
            session=st.none() | WORDS,
            position=st.none() | COUNTS,
            tags=st.lists(WORDS, max_size=3).map(tuple),
            entities=st.lists(WORDS, max_size=3).map(tuple),
            mentions=st.lists(MENTIONS, max_size=2).map(tuple),
            parts=COUNTS,
            metadata=METADATA,
        )
    )
    rules = draw(
        st.builds(
            Governance,
            st.none() | MOMENTS,
            st.integers(-(2**31) + 1, 2**31 - 1),
            st.sampled_from(Sensitivity),
            st.booleans(),
            st.booleans(),
        )
    )
    state, tier = draw(st.sampled_from(State)), draw(st.sampled_from(Tier))
    return PackedVersion(
        draw(WORDS), number, state, about, rules, tier, draw(WORDS), draw(WORDS), draw(st.none() | WORDS)
    )


@st.composite
def memories(draw: st.DrawFn) -> PackedMemory:
    id, number, earlier = draw(IDS), draw(st.integers(1, 6)), draw(st.integers(0, 3))
    edges = st.builds(Lineage, st.sampled_from(Relation), IDS, st.integers(1, 9))
    return PackedMemory(
        draw(versions(id, number)),
        tuple(draw(st.lists(edges, max_size=4, unique_by=lambda edge: (edge.relation, edge.source)))),
        draw(st.builds(Behavioural, COUNTS, st.none() | MOMENTS)),
        tuple(draw(versions(id, old)) for old in range(max(1, number - earlier), number)),
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(memories())
def test_what_is_written_is_read_again(told: PackedMemory) -> None:
    line = to_line(told)
    found = from_line(line[:-1])
    assert found == replace(told, lineage=found.lineage)
    assert set(found.lineage) == set(told.lineage)
    assert to_line(found) == line
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(memories())
def test_the_order_of_lineage_does_not_matter(told: PackedMemory) -> None:
    assert to_line(told) == to_line(replace(told, lineage=told.lineage[::-1]))


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(memories())
def test_a_line_is_canonical_json(told: PackedMemory) -> None:
    line = to_line(told)
    assert canonical_bytes(json.loads(line)) + b"\n" == line


def test_the_cube_is_not_in_a_line_but_given_when_a_memory_is_made_of_it() -> None:
    told = rich_memories()[0]
    assert "cube" not in to_plain(told)
    there = told.memory("work")
    assert (there.cube, there.id, there.lineage, there.behavioural) == ("work", "m_told", told.lineage, told.usage)
    assert PackedVersion.of(there, told.current.author, told.current.change, told.current.reason) == told.current
    assert told.history[0].memory("work").version == 1


def test_one_version_stands_alone_too() -> None:
    record = {
        name: value for name, value in to_plain(memory("m_1")).items() if name not in ("lineage", "usage", "history")
    }
    assert version_from_plain(record) == version("m_1")


def test_history_may_begin_late_but_has_no_gap() -> None:
    told = replace(memory("m_1"), current=version("m_1", 5))
    assert from_plain(to_plain(replace(told, history=(version("m_1", 4),)))).history[0].version == 4
    for numbers in ((1, 2, 4), (3,), (5,), (4, 3), (3, 4, 5)):
        with pytest.raises(MalformedCube, match="history of m_1"):
            to_line(replace(told, history=tuple(version("m_1", number) for number in numbers)))


def test_the_largest_content_fits_whatever_its_letters() -> None:
    for letter in ("x", "é", "漢", "🚢", '"', "\n"):
        line = to_line(memory("m_1", content="x" + letter * (MAX_CONTENT_CHARS - 1)))
        assert len(from_line(line[:-1]).current.content) == MAX_CONTENT_CHARS


def test_a_memory_with_too_much_history_is_named() -> None:
    long = "x" * MAX_CONTENT_CHARS
    count = MAX_LINE_BYTES // MAX_CONTENT_CHARS + 1
    told = replace(
        memory("m_1", content=long, number=count),
        history=tuple(version("m_1", number, long) for number in range(1, count)),
    )
    with pytest.raises(TooLargeBundle, match=r"m_1 and its history .* pack less history"):
        to_line(told)


def test_what_may_not_be_read_is_not_written() -> None:
    with pytest.raises(MalformedCube, match="tags of m_1"):
        to_line(memory("m_1", tags=("",)))
    with pytest.raises(MalformedCube, match="metadata of m_1"):
        to_line(memory("m_1", metadata='{"a": 1}'))
    with pytest.raises(MalformedCube, match="time zone"):
        to_line(memory("m_1", occurred_at=datetime(2026, 1, 1)))
