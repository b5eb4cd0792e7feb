"""Canonical bytes: equal for equal values, refused where there is no one form."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubes import Behavioural, Descriptive, Kind, MalformedCube, Memory, State, canonical_bytes, digest, memory_digest

WHEN = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def memory(content: str = "The harbour opens at eight.", **about: object) -> Memory:
    described = Descriptive(id="m_1", kind=Kind.FACT, created_at=WHEN, updated_at=WHEN, **about)  # type: ignore[arg-type]
    return Memory("default", content, 1, State.GENERATED, described)


@given(PLAIN)
def test_equal_values_have_equal_bytes_that_read_back_as_the_value(value: object) -> None:
    again = json.loads(json.dumps(value))
    assert canonical_bytes(value) == canonical_bytes(again)
    assert json.loads(canonical_bytes(value)) == value


@given(st.dictionaries(TEXT, st.integers(), min_size=2, max_size=6))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    assert canonical_bytes(value) == canonical_bytes(dict(reversed(value.items())))


@given(st.datetimes(timezones=st.just(UTC), min_value=datetime(1900, 1, 2)), st.integers(-14, 14))
def test_the_same_instant_in_another_time_zone_has_the_same_bytes(moment: datetime, hours: int) -> None:
    elsewhere = moment.astimezone(timezone(timedelta(hours=hours)))
    assert canonical_bytes(moment) == canonical_bytes(elsewhere)


def test_text_is_kept_as_it_is_and_not_renormalised() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert canonical_bytes(composed) != canonical_bytes(decomposed)
    assert canonical_bytes(composed) == b'"caf\xc3\xa9"'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [1, {"deep": math.nan}]])
def test_a_number_that_is_not_finite_is_refused(value: object) -> None:
    with pytest.raises(MalformedCube, match="finite"):
        canonical_bytes(value)


def test_a_date_without_a_time_zone_is_refused() -> None:
    with pytest.raises(MalformedCube, match="time zone"):
        canonical_bytes({"at": datetime(2026, 3, 2, 9, 0)})


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, ["fine", "not \udc00 fine"]])
def test_a_lone_surrogate_is_refused(value: object) -> None:
    with pytest.raises(MalformedCube, match="surrogate"):
        canonical_bytes(value)


def test_a_type_without_a_canonical_form_is_refused() -> None:
    with pytest.raises(MalformedCube, match="object"):
        canonical_bytes({"what": object()})


def test_digests_stay_what_they_are_from_release_to_release() -> None:
    assert digest({"b": [1, 2.5, None, True], "a": "é", "when": WHEN, "kind": Kind.FACT}) == GOLDEN_VALUE
    assert memory_digest(memory(tags=("harbour",), occurred_at=WHEN)) == GOLDEN_MEMORY


def test_being_read_does_not_change_what_a_memory_is() -> None:
    plain = memory()
    assert memory_digest(plain) == memory_digest(replace(plain, behavioural=Behavioural(7, WHEN)))
    assert memory_digest(plain) != memory_digest(replace(plain, content="The harbour opens at nine."))
    assert memory_digest(plain) != memory_digest(replace(plain, version=2))


GOLDEN_VALUE = "sha256:37d38e4188b45d64f157abd82f5783fdc35daf3230c880c0c0488ce268cf2ec0"
GOLDEN_MEMORY = "sha256:70b41c02d9b8429ad76ad23e1f0a19400925dab695629efa6fece6aa634b3807"
