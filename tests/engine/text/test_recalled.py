"""Recalled text goes out delimited and is recognised when it comes back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text.recalled import delimit, take_out

ID = "m_01JARZ7Q2M0000000000"

TAGS = ("</memory>", '<memory id="m_1">', "<memory", "memory", "</ memory>", "< /MEMORY >")
SIGNS = ("<", ">", "/", "&lt;", "&", "amp;", "lt;", "\n", '"', "text", " ")
hostile = st.lists(st.sampled_from(TAGS + SIGNS), max_size=12).map("".join)
outside = st.text(alphabet=st.sampled_from([*"ab <>/&;\n"]), max_size=30)


@given(hostile | st.text(max_size=60), outside, outside)
def test_a_block_is_taken_out_whole_whatever_it_holds(content: str, before: str, after: str) -> None:
    block = delimit(ID, {"kind": "fact"}, content)
    assert take_out(before + block + after) == (before + after, (ID,))


@given(hostile)
def test_content_can_neither_close_its_block_nor_open_another(content: str) -> None:
    inner = delimit(ID, {}, content).removeprefix(f'<memory id="{ID}">').removesuffix("</memory>")
    assert not re.search(r"<[\s/]*memory", inner, re.IGNORECASE)


@given(hostile, hostile)
def test_different_contents_look_different(one: str, other: str) -> None:
    assert (delimit(ID, {}, one) == delimit(ID, {}, other)) == (one == other)


@given(st.text(max_size=40))
def test_attributes_stay_within_their_quotes(value: str) -> None:
    assert take_out(delimit(ID, {"tags": value}, "text")) == ("", (ID,))


def test_plain_text_is_left_as_it_is() -> None:
    for text in ("", "no blocks", "the </memory> tag alone", '<memory id="m_1"> never closed', "a < b & c"):
        assert take_out(text) == (text, ())


def test_ordinary_markup_in_content_is_not_changed() -> None:
    assert delimit(ID, {}, "a < b && <b>c</b> &lt;d&gt;").endswith(">a < b && <b>c</b> &lt;d&gt;</memory>")


def test_ids_come_in_order_each_once() -> None:
    text = delimit("m_2", {}, "x") + " and " + delimit("m_1", {}, "y") + delimit("m_2", {}, "z")
    assert take_out(text) == (" and ", ("m_2", "m_1"))


def test_names_that_would_break_the_tag_are_refused() -> None:
    with pytest.raises(ValueError, match="id"):
        delimit('m_1"', {}, "x")
    with pytest.raises(ValueError, match="attribute"):
        delimit(ID, {"on click": "x"}, "x")
    with pytest.raises(ValueError, match="attribute"):
        delimit(ID, {"id": "x"}, "x")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit", ['<memory id="m_1">', "</memory>", "<memory ", "<", '<memory id="m_1"></memory>', "&amp;"]
)
def test_hostile_texts_are_read_in_linear_time(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    take_out(text)
    assert take_out(delimit(ID, {}, text)) == ("", (ID,))
