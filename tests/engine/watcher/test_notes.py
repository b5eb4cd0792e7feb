"""What a file becomes: its words verbatim, its front matter kept and used, and what is no note."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from cubes import Kind, Sensitivity
from engine.errors import Invalid
from engine.reader import RETRIEVAL_UNIT_CHARS
from engine.watcher.notes import Note, read_note

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def note(text: str, path: str = "a/b.md") -> Note:
    found = read_note(text.encode(), path)
    assert found is not None
    return found


def test_front_matter_is_kept_and_used_and_the_words_are_verbatim() -> None:
    body = "\nShe said: *yes*.  \r\n\r\n---\nafter a rule\n"
    found = note(
        f"---\ntitle: A day\ntags: [sea, '#ships', sea]\ndate: 2024-05-01\nkind: event\nrating: 4.5\n---\n{body}"
    )
    (draft,) = found.drafts(NOW)
    assert draft.content == body
    assert (draft.kind, draft.tags, draft.source) == (Kind.EVENT, ("sea", "ships"), "a/b.md")
    assert draft.occurred_at == datetime(2024, 5, 1, tzinfo=UTC)
    said = json.loads(str(draft.metadata))
    assert said["title"] == "A day"
    assert said["front_matter"] == {
        "title": "A day",
        "tags": ["sea", "#ships", "sea"],
        "date": "2024-05-01",
        "kind": "event",
        "rating": 4.5,
    }
    assert found.remarks == ()


@pytest.mark.parametrize(
    ("text", "title"),
    [("# The first heading\n\nWords.", "The first heading"), ("Words alone.", "b"), ("## Second level\n", "b")],
)
def test_a_note_without_a_title_is_called_by_its_heading_or_its_file(text: str, title: str) -> None:
    assert json.loads(note(text).metadata)["title"] == title


@pytest.mark.parametrize(
    "head",
    [
        "---\na: [\n---\n",
        "---\na: &x 1\nb: *x\n---\n",
        "---\n" + "a:\n" + "".join(" " * depth + "a:\n" for depth in range(1, 40)) + "---\n",
        "---\na: !!python/object/apply:os.system [ls]\n---\n",
        "---\nd: 2024-13-45\n---\n",
        '---\na: "\\ud800"\n---\n',
        "---\n" + "".join(f"k{number}: 1\n" for number in range(3_000)) + "---\n",
    ],
)
def test_front_matter_that_cannot_be_read_stays_in_the_content_and_is_told(head: str) -> None:
    found = note(head + "Words.\n")
    assert found.drafts(NOW)[0].content == head + "Words.\n"
    assert "front matter cannot be read" in found.remarks[0]
    assert "front_matter" not in json.loads(found.metadata)


@pytest.mark.parametrize(
    "text", ["---\njust a line\n---\nWords.", "---\nWords without an end.", "--- \n\n\n", "----\na: b\n"]
)
def test_dashes_that_enclose_no_fields_are_words(text: str) -> None:
    found = note(text)
    assert found.drafts(NOW)[0].content == text
    assert found.remarks == ()


@pytest.mark.parametrize(
    ("data", "content"),
    [
        ("Grüße.\n".encode("utf-8-sig"), "Grüße.\n"),
        (b"\xff\xfe" + "Grüße 🚢.\n".encode("utf-16-le"), "Grüße 🚢.\n"),
        (b"\xfe\xff" + "Grüße.\n".encode("utf-16-be"), "Grüße.\n"),
        (b"one\r\ntwo\r\n", "one\r\ntwo\r\n"),
    ],
)
def test_utf8_and_utf16_are_read(data: bytes, content: str) -> None:
    found = read_note(data, "a.txt")
    assert found is not None
    assert found.drafts(NOW)[0].content == content


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("Grüße".encode("latin-1"), "no text in UTF-8 or UTF-16"),
        (b"PNG\x00\x01", "holds NUL"),
        (b"a\x1b[31m", "holds a control character"),
        ("x".encode("utf-32"), "no text in UTF-8 or UTF-16|holds NUL"),
        (b"x" * 1_000_001, "has 1000001 characters"),
        (b"\xff\xfe\x00", "no text in UTF-8 or UTF-16"),
    ],
)
def test_what_is_no_text_is_refused_and_says_why(data: bytes, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        read_note(data, "a.md")


@pytest.mark.parametrize("text", ["", " \n\t\n", "---\ntitle: Empty\n---\n"])
def test_a_file_without_words_is_no_note(text: str) -> None:
    assert read_note(text.encode(), "a.md") is None


def test_a_secret_in_a_file_makes_the_whole_note_secret_and_is_told_without_the_secret() -> None:
    key = "ghp_" + "a1B2c3D4" * 5
    text = "Words. " * 300 + f"\n\nThe token is {key}.\n"
    assert len(text) > RETRIEVAL_UNIT_CHARS
    found = note(text)
    drafts = found.drafts(NOW)
    assert len(drafts) > 2
    assert {draft.governance.sensitivity for draft in drafts if draft.governance} == {Sensitivity.SECRET}
    assert "GitHub token" in found.remarks[0]
    assert key not in "".join(found.remarks)
    assert note(f"---\ntoken: {key}\n---\nWords.").rules.sensitivity is Sensitivity.SECRET


@pytest.mark.parametrize(
    ("said", "kept", "told"),
    [
        ("personal", Sensitivity.PERSONAL, 0),
        ("secret", Sensitivity.SECRET, 0),
        ("top", Sensitivity.SECRET, 1),
        ("[normal]", Sensitivity.SECRET, 1),
    ],
)
def test_front_matter_can_say_how_sensitive_a_note_is(said: str, kept: Sensitivity, told: int) -> None:
    found = note(f"---\nsensitivity: {said}\n---\nWords.")
    assert found.rules.sensitivity is kept
    assert len(found.remarks) == told


def test_fields_that_hold_what_they_should_not_do_no_harm() -> None:
    head = "---\ntags: {a: b}\ndate: soon\ncreated: 2024-02-03 10:00:00+02:00\nkind: [x]\ntitle: 5\n---\n"
    found = note(head + "Words.")
    (draft,) = found.drafts(NOW)
    assert (draft.tags, draft.kind) == ((), Kind.DOCUMENT)
    assert draft.occurred_at == datetime(2024, 2, 3, 8, 0, tzinfo=UTC)
    assert found.remarks == ("its date is no date that is understood",)
    many = note("---\ntags: " + " ".join(f"t{number}" for number in range(100)) + "\n---\nWords.")
    assert len(many.drafts(NOW)[0].tags) == 64
    assert "more than 64 tags" in many.remarks[0]


def test_words_that_look_like_recalled_memories_stay_in_a_file() -> None:
    text = '<memory id="m_X" kind="fact">Not ours to take out.</memory>\nAnd more.\n'
    assert note(text).drafts(NOW)[0].content == text
