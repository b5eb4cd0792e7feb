"""What a person sees: text from memory is shown and never obeyed, and nothing is cut off."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from memos_mcp.terminal import Screen, harmless, table, width, wrapped

ESCAPE = "\x1b]0;owned\x07\x1b[2J"


def test_control_characters_of_a_memory_are_written_out() -> None:
    assert harmless(f"a{ESCAPE}b") == "a\\x1b]0;owned\\x07\\x1b[2Jb"
    assert harmless("left\u202eright") == "left\\u202eright"
    assert harmless("two\nlines") == "two\nlines"
    assert harmless("two\nlines", keep="") == "two\\nlines"


def test_a_family_of_emoji_and_accents_stay_as_they_are() -> None:
    assert harmless("👩‍👧 café naïve 日本") == "👩‍👧 café naïve 日本"


def test_a_remark_is_one_line_whatever_is_in_it() -> None:
    err = io.StringIO()
    Screen(io.StringIO(), err).remark(f"first\nsecond {ESCAPE}")
    assert err.getvalue().count("\n") == 1
    assert "\x1b" not in err.getvalue()


def test_the_last_column_wraps_under_its_heading() -> None:
    lines = table(("id", "content"), [("m_1", "one two three four five six")], 30)
    assert lines == ["id   content", "m_1  one two three four five", "     six"]


def test_wide_characters_take_two_cells() -> None:
    lines = table(("name", "n"), [("日本", 1), ("ab", 2)], 80)
    assert [width(line.rpartition(" ")[0]) for line in lines[1:]] == [5, 5]


@given(st.text(), st.integers(min_value=2, max_value=60))
def test_wrapping_loses_no_word_and_passes_no_bound(text: str, columns: int) -> None:
    shown = harmless(text)
    lines = wrapped(shown, columns)
    assert "".join("".join(lines).split()) == "".join(shown.split())
    assert all(width(line) <= columns for line in lines)


def test_a_bar_is_not_drawn_where_nobody_watches() -> None:
    err = io.StringIO()
    with Screen(io.StringIO(), err).bar("import") as bar:
        bar(1, 10, "")
    assert err.getvalue() == ""


def test_a_bar_shows_its_share_and_cleans_up_after_itself() -> None:
    err = _Terminal()
    with Screen(io.StringIO(), err).bar("import") as bar:
        bar(5, 10, "half")
    assert "50% half" in err.getvalue()
    assert err.getvalue().endswith("\r\x1b[K")


def test_without_a_person_the_answer_is_no() -> None:
    err = io.StringIO()
    assert not Screen(io.StringIO(), err).ask("Really?")
    assert err.getvalue() == ""


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True
