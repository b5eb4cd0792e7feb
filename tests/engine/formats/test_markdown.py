"""Markdown: what we write comes back as it was, what others wrote keeps its words and its front matter."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from engine.formats import FORMATS, Report
from engine.formats.front_matter import join, split
from engine.memos import MemOS
from engine.operations import Fuse, Remember, Turn
from tests.conftest import HandClock
from tests.engine.formats.samples_of import SAMPLES, records
from tests.engine.stores import ME, archive, opened, say, settings_for, told

WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")) | st.sampled_from("\n\t-:#'\"\r"), min_size=1
)
TEXTS = WORDS.filter(lambda text: bool(text.strip()))


def exported(memos: MemOS) -> list[dict[str, Any]]:
    return list(memos.export_memories(ME))


def written(memos: MemOS, folder: Path) -> list[str]:
    write = FORMATS["markdown"].write_files
    assert write is not None
    names = []
    for name, text in write(memos.export_memories(ME), Report()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        names.append(name)
    return names


def by_id(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(found, key=lambda record: str(record["id"]))


def test_an_export_to_markdown_is_imported_as_the_same_memories_with_their_history(
    memos: MemOS, clock: HandClock, tmp_path: Path
) -> None:
    old = say(memos, "Ben lives in Oslo.", tags=("Ben",), source="chat", occurred_at=clock.now())
    told(memos, "Ben moved to Bergen.", supersedes=(old,))
    memos.fuse(Fuse(ids=(say(memos, "The lamp is green."), say(memos, "The coat is blue.", expires_in_days=3))), ME)
    memos.remember(Remember(messages=(Turn("user", "Ahoy!", "Anna"), Turn("assistant", "Yes?")), cube="Talk: one"), ME)
    archive(memos, say(memos, "---\nlooks: like front matter\n---\n\n"), reason="no more")
    memos.import_memories(records(SAMPLES / "mem0.json"), ME)
    names = written(memos, tmp_path)
    before = exported(memos)
    assert len(set(names)) == len(before)
    assert names == written(memos, tmp_path)
    with opened(settings_for(tmp_path / "other"), clock) as other:
        report = other.import_memories(records(tmp_path), ME)
        assert (report.added, report.duplicates, report.refused) == (len(before), 0, [])
        assert by_id(exported(other)) == by_id(before)
        assert other.verify(ME) == ()
        assert other.import_memories(records(tmp_path), ME).added == 0


@profile(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(TEXTS, st.lists(TEXTS.map(lambda t: " ".join(t.split())[:40]).filter(bool), max_size=2)), max_size=4
    )
)
def test_any_words_survive_the_way_through_a_file(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, list[str]]]
) -> None:
    folder = tmp_path_factory.mktemp("md")
    with opened(settings_for(folder / "a")) as memos, opened(settings_for(folder / "b")) as other:
        memos.import_memories(
            [{"content": text, "tags": tags, "metadata": {"odd: key": text}} for text, tags in said], ME
        )
        written(memos, folder / "files")
        (folder / "files").mkdir(exist_ok=True)
        assert other.import_memories(records(folder / "files", "markdown"), ME).refused == []
        assert by_id(exported(other)) == by_id(exported(memos))


def test_a_file_that_was_edited_is_something_new_with_its_tags_and_kind(memos: MemOS, tmp_path: Path) -> None:
    id = say(memos, "The ferry leaves at seven.", tags=("harbour",))
    (name,) = written(memos, tmp_path)
    path = tmp_path / name
    path.write_text(path.read_text("utf-8").replace("at seven", "at eight"), "utf-8")
    report = memos.import_memories(records(tmp_path), ME)
    assert (report.added, report.conflicts) == (1, 1)
    new = memos.memories("default", ME).memories[1]
    assert (new.content, new.descriptive.tags) == ("The ferry leaves at eight.", ("harbour",))
    assert json.loads(new.descriptive.metadata or "")["fields"]["edited_from"] == id


def test_names_of_files_are_safe_everywhere_and_never_the_same(memos: MemOS, tmp_path: Path) -> None:
    hostile = ["../../etc/passwd", "CON", "a/b\\c:d*?", "日本語だけ", "x" * 500, "..", "same words", "Same   words!"]
    for number, text in enumerate(hostile):
        say(memos, text, cube=("..", "Café: x", "default")[number % 3])
    names = written(memos, tmp_path / "out")
    assert len({name.casefold() for name in names}) == len(names) == len(hostile)
    for name in names:
        assert all(char in "abcdefghijklmnopqrstuvwxyz0123456789-_./" for char in name)
        assert ".." not in name.split("/")
        assert len(name) < 200
    assert {path.name for path in tmp_path.iterdir()} == {"out", "data"}


def test_notes_of_others_keep_their_words_and_their_front_matter() -> None:
    ferry, plain = records(SAMPLES / "markdown")
    assert ferry["content"] == "# Ferry times\n\nTake the *blue* line at 7:10, change at the lighthouse.\n"
    assert (ferry["kind"], ferry["tags"]) == ("procedure", ["travel", "harbour"])
    assert ferry["occurred_at"] == datetime(2025, 4, 2, tzinfo=UTC).isoformat()
    assert ferry["metadata"]["fields"]["author"] == "Anna"
    assert ferry["metadata"]["fields"]["title"] == "Ferry times"
    assert plain["content"] == "A note without front matter.\r\nIts line ends stay.\r\n"


FIELDS = st.dictionaries(
    TEXTS, st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists), max_size=4
)


@given(FIELDS, st.text())
def test_front_matter_comes_back_as_it_went(fields: dict[str, Any], body: str) -> None:
    try:
        text = join(fields, body)
        yaml.safe_load(text[4 : text.index("\n---\n", 3) + 1])
    except (yaml.YAMLError, UnicodeEncodeError):
        return  # characters that YAML does not know; memories have none of them
    assert split(text, "-") == (fields, body)
