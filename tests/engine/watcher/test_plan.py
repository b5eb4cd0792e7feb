"""Which file is which memory."""

from __future__ import annotations

from cubes import Governance
from engine.operations import Remember
from engine.watcher.notes import Note
from engine.watcher.plan import Known, Plan, plan


def notes(**digests: str) -> dict[str, Note]:
    return {path: Note(digest, Remember(content="x"), Governance(), "{}") for path, digest in digests.items()}


def known(**digests: str) -> dict[str, Known]:
    return {path: Known(f"m_{path}", digest) for path, digest in digests.items()}


def told(found: Plan) -> list[tuple[str, str, str | None]]:
    return sorted((item.path, item.change, item.id) for item in found.items)


def test_what_keeps_its_path_keeps_its_memory() -> None:
    found = plan(known(a="1", b="2"), {}, "ab", notes(a="1", b="3"))
    assert (told(found), found.gone) == ([("b", "edit", "m_b")], {})


def test_the_same_bytes_at_another_path_are_a_rename_and_a_copy_is_new() -> None:
    found = plan(known(a="1", b="2"), {}, "bcd", notes(c="1", d="2"))
    assert told(found) == [("c", "rename", "m_a"), ("d", "add", None)]
    assert found.gone == {}


def test_of_files_with_the_same_bytes_those_with_the_same_name_belong_together() -> None:
    before = {path: Known(f"m_{path}", "same") for path in ("old/x.md", "old/y.md", "old/z.md")}
    after = {
        path: Note("same", Remember(content="x"), Governance(), "{}") for path in ("new/y.md", "new/z.md", "new/w.md")
    }
    found = plan(before, {}, after, after)
    assert told(found) == [
        ("new/w.md", "rename", "m_old/x.md"),
        ("new/y.md", "rename", "m_old/y.md"),
        ("new/z.md", "rename", "m_old/z.md"),
    ]


def test_what_comes_back_at_its_path_or_with_its_bytes_is_the_same_memory() -> None:
    found = plan({}, known(a="1", b="2"), "ac", notes(a="9", c="2"))
    assert told(found) == [("a", "restore", "m_a"), ("c", "restore", "m_b")]


def test_what_left_just_now_goes_before_what_was_deleted_long_ago() -> None:
    found = plan(known(b="1"), known(a="1"), "a", notes(a="1"))
    assert told(found) == [("a", "rename", "m_b")]
    assert found.gone == {}


def test_what_is_gone_is_archived_and_nothing_is_claimed_twice() -> None:
    found = plan(known(a="1", b="1"), {}, "cde", notes(c="1", d="1", e="1"))
    assert [change for _, change, _ in told(found)] == ["rename", "rename", "add"]
    assert {id for _, _, id in told(found)} == {"m_a", "m_b", None}
    assert plan(known(a="1"), {}, "", {}).gone == {"a": "m_a"}
    assert not plan(known(a="1"), {}, "a", notes(a="1"))
