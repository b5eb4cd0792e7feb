"""Out and in: nothing is lost on the way, twice is once, and nothing is taken on trust."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from cubes import Action, Kind
from engine.errors import Invalid
from engine.memos import MemOS
from engine.operations import MAX_TURN_CHARS, Caller, Fuse, Principal, Remember, Turn
from tests.conftest import HandClock
from tests.engine.stores import (
    ME,
    archive,
    ask,
    contents,
    erase,
    ids,
    opened,
    say,
    settings_for,
    state,
    told,
    with_vectors,
)

WORDS = st.sampled_from(
    ["lamp", "Skagen", "øl", "日本", "don't", "3.5", "🚢", "Anna", "not", "—", "\n", "<memory id='x'>"]
)
TEXTS = st.lists(WORDS, min_size=1, max_size=12).map(" ".join).filter(lambda text: bool(text.strip()))
TIMES = st.none() | st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))


def exported(memos: MemOS, caller: Caller = ME) -> list[dict[str, Any]]:
    """As a file would hold it: through JSON."""
    records: list[dict[str, Any]] = json.loads(json.dumps(list(memos.export_memories(caller))))
    return records


def lived_in(memos: MemOS, clock: HandClock) -> None:
    """Leave a bit of everything in the store."""
    old = say(memos, "Ben lives in Oslo.", tags=("Ben",), source="chat", occurred_at=clock.now())
    told(memos, "Ben moved to Bergen.", supersedes=(old,))
    pair = (say(memos, "The lamp is green."), say(memos, "The coat is blue.", expires_in_days=3))
    memos.fuse(Fuse(ids=pair), ME)
    told(memos, "Every lamp has a keeper of its own, and each keeper has a name. " * 40, cube="book")
    memos.remember(Remember(messages=(Turn("user", "Ahoy!", "Anna"), Turn("assistant", "Yes?")), cube="talk"), ME)
    clock.pass_by(hours=1)
    archive(memos, say(memos, "The gate is shut on Mondays."), reason="not any more")
    ask(memos, "Bergen lamp keeper")
    memos.sweep()


def test_what_goes_out_comes_in_whole_and_a_second_time_changes_nothing(
    memos: MemOS, clock: HandClock, tmp_path: Path
) -> None:
    lived_in(memos, clock)
    records = exported(memos)
    assert {"id", "cube", "content", "state"} <= set(records[0])
    with opened(with_vectors(settings_for(tmp_path / "other")), clock) as other:
        report = other.import_memories(records, ME)
        assert (report.added, report.duplicates, report.refused) == (len(records), 0, [])
        assert exported(other) == records
        assert other.verify(ME) == ()
        assert ids(ask(other, "where does Ben live?"))[0] == ids(ask(memos, "where does Ben live? Bergen"))[0]
        revision = other.status(ME).revision
        again = other.import_memories(records, ME)
        assert (again.added, again.duplicates, again.refused) == (0, len(records), [])
        assert other.status(ME).revision == revision
        parent = next(record for record in records if record["state"] == "merged")
        other.restore(parent["id"], 1, ME)
        assert state(other, parent["id"]) in ("generated", "activated")


@profile(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(TEXTS, st.sampled_from(Kind), st.lists(TEXTS.filter(lambda t: "\n" not in t), max_size=2), TIMES),
        min_size=1,
        max_size=5,
    )
)
def test_any_memories_survive_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, Kind, list[str], datetime | None]]
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    with opened(settings_for(folder / "a")) as memos:
        for text, kind, tags, when in said:
            try:
                told(memos, text, kind=kind, tags=tuple(tags), occurred_at=when)
            except Invalid:
                continue
        records = exported(memos)
    with opened(settings_for(folder / "b")) as other:
        assert other.import_memories(records, ME).refused == []
        assert exported(other) == records


def test_plain_objects_with_a_content_are_remembered(memos: MemOS) -> None:
    report = memos.import_memories(
        [
            {"content": "From another program.", "tags": ["x"], "kind": "fact", "occurred_at": "2026-01-05"},
            {"content": "From another program."},
            {"content": "In its own cube.", "cube": "theirs", "source": "file.json", "unknown": 1},
        ],
        ME,
    )
    assert (report.added, report.duplicates, report.refused) == (2, 1, [])
    memory = memos.memories("default", ME).memories[0]
    assert memory.descriptive.occurred_at == datetime(2026, 1, 5, tzinfo=UTC)
    assert memos.memories("theirs", ME).memories[0].descriptive.source == "file.json"


def hostile(record: dict[str, Any]) -> list[Any]:
    """Records that must each be refused alone."""
    old = {**record, "version": 1}
    changes: list[dict[str, Any]] = [
        {"id": ""},
        {"id": "x" * 65},
        {"id": "m_\u00e9"},
        {"id": 7},
        {"content": ""},
        {"content": 7},
        {"content": "x" * (MAX_TURN_CHARS + 1)},
        {"content": "nul \0"},
        {"content": "lone \ud800"},
        {"state": "erased"},
        {"kind": "opinion"},
        {"version": 0},
        {"version": 2**40},
        {"version": "1"},
        {"version": True},
        {"created_at": "yesterday"},
        {"created_at": "0001-01-01T00:00:00+14:00"},
        {"updated_at": None},
        {"updated_at": 1_700_000_000},
        {"occurred_at": "9999-12-31T23:59:59-14:00"},
        {"cube": ""},
        {"cube": "a/b"},
        {"cube": "lone \ud800"},
        {"cube": ["default"]},
        {"tags": "abc"},
        {"tags": [1, 2]},
        {"tags": ["t"] * 65},
        {"tags": ["lone \udfff"]},
        {"entities": {"a": 1}},
        {"mentions": [{"text": "Friday"}]},
        {"mentions": "Friday"},
        {"position": -1},
        {"position": 2**31},
        {"position": 1.5},
        {"parts": -1},
        {"priority": 2**63},
        {"sensitivity": "top"},
        {"author": "lone \ud800"},
        {"reason": {"a": 1}},
        {"usage": {"access_count": 2**70, "last_access": "2026-01-01"}},
        {"usage": {"access_count": -1}},
        {"usage": [1]},
        {"lineage": [{"relation": "parent", "source": "m_1", "version": 1}]},
        {"lineage": [{"relation": "part_of", "source": "", "version": 1}]},
        {"lineage": ["m_1"]},
        {"version": 2, "history": [{**old, "id": "m_OTHER"}]},
        {"version": 2, "history": [{**old, "cube": "another"}]},
        {"version": 3, "history": [old]},
        {"version": 2, "history": [{**old, "version": 2}]},
        {"version": 2, "history": "none"},
        {"history": [old]},
    ]
    return [
        *({**record, "id": f"m_HOSTILE{n}", **change} for n, change in enumerate(changes)),
        None,
        "text",
        7,
        [],
        {},
        {"content": None},
        {"content": "ok", "kind": "opinion"},
        {"content": "ok", "tags": "abc"},
        {"content": "ok", "cube": 5},
        {"content": "ok", "occurred_at": 5},
        {"content": "AWS key AKIAIOSFODNN7QXBMPLE"},
    ]


def test_hostile_records_are_refused_one_by_one_and_the_rest_is_put_in(memos: MemOS, clock: HandClock) -> None:
    say(memos, "The one that is copied.")
    (record,) = exported(memos)
    bad = hostile(record)
    records: list[Any] = []
    for number, hostile_record in enumerate(bad):
        records += [{**record, "id": f"m_GOOD{number}", "content": f"Good record {number} of many."}, hostile_record]
    report = memos.import_memories(records, ME)
    refused = [int(text.split(":")[0].removeprefix("record ")) for text in report.refused]
    assert sorted(refused) == [2 * number + 2 for number in range(len(bad))]
    assert (report.added, report.duplicates) == (len(bad), 0)
    assert all(len(text) > len("record 10: ") for text in report.refused)
    assert {id[:6] for id in (found["id"] for found in exported(memos)) if id != record["id"]} == {"m_GOOD"}
    assert memos.verify(ME) == ()


def test_an_import_goes_only_where_its_caller_may_write(memos: MemOS) -> None:
    id = say(memos, "In the owner's cube.")
    (record,) = exported(memos)
    guest = Caller(Principal("guest", grants=(("theirs", (Action.WRITE,)), ("default", (Action.READ,)))))
    report = memos.import_memories(
        [
            {**record, "id": "m_A", "cube": "theirs"},
            {**record, "id": "m_B"},
            {**record, "id": "m_C", "cube": "nobody's"},
            {"content": "x", "cube": "nobody's"},
            {**record, "id": id, "content": "Overwritten?", "cube": "theirs"},
        ],
        guest,
    )
    assert (report.added, report.duplicates, len(report.refused)) == (1, 1, 3)
    assert memos.memory(id, ME).memory.content == "In the owner's cube."
    assert {found["id"] for found in exported(memos)} == {id, "m_A"}


def test_an_edge_that_was_imported_into_another_cube_keeps_nobody_from_erasing(memos: MemOS) -> None:
    id = say(memos, "The owner's own memory.")
    (record,) = exported(memos)
    guest = Caller(Principal("guest", grants=(("theirs", (Action.WRITE,)),)))
    edge = {"relation": "fused_from", "source": id, "version": 1}
    memos.import_memories([{**record, "id": "m_A", "cube": "theirs", "lineage": [edge]}], guest)
    assert [item.id for item in erase(memos, id).forgotten] == [id]
    assert [found["id"] for found in exported(memos)] == ["m_A"]


# --- many texts at once ---------------------------------------------------------------------------------------------


def test_records_of_one_batch_are_compared_with_each_other_as_if_they_came_one_by_one(memos: MemOS) -> None:
    report = memos.import_memories(
        [
            {"content": "Ben lives in Oslo."},
            {"content": "The lamp is green."},
            {"content": "Ben lives in Bergen."},
            {"content": "ben lives in Oslo"},
            {"content": "The lamp is not green."},
        ],
        ME,
    )
    assert (report.added, report.duplicates, report.conflicts) == (4, 1, 2)
    records = {record["content"]: record for record in exported(memos)}
    rivals = {content: [edge["source"] for edge in record["lineage"]] for content, record in records.items()}
    assert rivals["Ben lives in Bergen."] == [records["Ben lives in Oslo."]["id"]]
    assert rivals["The lamp is not green."] == [records["The lamp is green."]["id"]]


def test_the_same_words_at_another_time_are_another_event_also_within_one_import(memos: MemOS) -> None:
    days = ["2026-01-05", "2026-01-06", "2026-01-06", "2026-01-05", "2026-01-07"]
    records = [{"content": "Swam to the buoy", "occurred_at": day} for day in days]
    report = memos.import_memories(records, ME)
    assert (report.added, report.duplicates) == (3, 2)
    assert memos.import_memories(records, ME).duplicates == 5


def test_the_same_words_about_different_things_are_both_kept_and_contradict_nobody_else(memos: MemOS) -> None:
    def about(name: str, words: str) -> dict[str, Any]:
        return {"content": words, "metadata": {"from": "graph", "id": f"{name}: {words}", "about": name}}

    records = [about("Anna", "likes tea"), about("Ben", "likes tea"), about("Cora", "does not like tea")]
    report = memos.import_memories(records, ME)
    assert (report.added, report.duplicates, report.conflicts) == (3, 0, 0)
    revision = memos.status(ME).revision
    assert memos.import_memories(records, ME).duplicates == 3
    assert memos.import_memories([{"content": "likes tea"}], ME).duplicates == 1
    assert memos.import_memories([about("Ben", "does not like tea")], ME).conflicts == 1
    assert memos.status(ME).revision > revision


def test_a_thing_that_its_program_describes_anew_is_still_that_thing(memos: MemOS) -> None:
    first = {"content": "Keeps bees", "metadata": {"from": "x", "id": "7", "fields": {"seen": 1}}}
    assert memos.import_memories([first], ME).added == 1
    assert (
        memos.import_memories([{**first, "metadata": {"from": "x", "id": "7", "fields": {"seen": 2}}}], ME).added == 0
    )
    assert memos.import_memories([{**first, "metadata": {"from": "x", "id": "8"}}], ME).added == 1


def test_what_no_field_is_made_for_is_kept_in_the_metadata_and_goes_out_and_in_again(
    memos: MemOS, tmp_path: Path
) -> None:
    memos.import_memories(
        [
            {"content": "One.", "shelf": 3, "metadata": {"page": 12}, "entities": ["Anna"], "priority": 2},
            {"content": "Two.", "metadata": '{"b": 1, "a": "ø"}', "sensitivity": "personal", "pinned": True},
        ],
        ME,
    )
    records = exported(memos)
    assert [record["metadata"] for record in records] == ['{"fields":{"shelf":3},"page":12}', '{"a":"ø","b":1}']
    assert (records[0]["entities"], records[0]["priority"]) == (["Anna"], 2)
    assert (records[1]["sensitivity"], records[1]["pinned"]) == ("personal", True)
    with opened(settings_for(tmp_path / "other")) as other:
        assert other.import_memories(records, ME).refused == []
        assert exported(other) == records


@pytest.mark.parametrize(
    "metadata",
    ["no json", "[1]", 7, [1], {"a": float("nan")}, {"a": "lone \ud800"}, {"a": "x" * 1_000_001}, "[" * 100_000],
)
def test_metadata_that_cannot_be_kept_is_refused(memos: MemOS, metadata: Any) -> None:
    report = memos.import_memories([{"content": "fine", "metadata": metadata}, {"content": "also fine"}], ME)
    assert (report.added, len(report.refused)) == (1, 1)


def test_what_has_expired_is_refused_since_it_could_not_be_found_again(memos: MemOS, clock: HandClock) -> None:
    records = [
        {"content": "Gone.", "expires_at": "2020-01-01"},
        {"content": "Lasts a while.", "expires_at": "2090-01-01"},
    ]
    for added in (1, 0):
        report = memos.import_memories(records, ME)
        assert (report.added, report.duplicates, len(report.refused)) == (added, 1 - added, 1)
    assert "it expired on 2020-01-01" in report.refused[0]


def test_a_long_text_is_found_by_its_pieces_wherever_it_stands_in_a_batch(dense: MemOS) -> None:
    long = "Every lamp has a keeper of its own, and each keeper has a name. " * 40
    records = [{"content": "Short one."}, {"content": long}, {"content": "Another."}, {"content": long + "Not this."}]
    assert dense.import_memories(records, ME).added == 4
    kept = exported(dense)
    wholes = {record["id"]: record for record in kept if record["parts"]}
    assert sorted(record["content"] for record in wholes.values()) == sorted(records[n]["content"] for n in (1, 3))
    for whole in wholes.values():
        pieces = [r for r in kept if r["lineage"] and r["lineage"][0]["source"] == whole["id"]]
        assert [piece["position"] for piece in pieces] == list(range(whole["parts"]))
        assert "".join(piece["content"] for piece in pieces) == whole["content"]
    assert dense.verify(ME) == ()
    assert "keeper" in contents(ask(dense, "who looks after a lamp?"))[0]


def test_a_dry_run_says_what_would_be_and_changes_nothing(memos: MemOS, tmp_path: Path) -> None:
    known = say(memos, "The lamp is green.")
    revision = memos.status(ME).revision
    records: list[Any] = [
        {"content": "The lamp is green."},
        {"content": "The lamp is not green."},
        {"content": "A coat.", "cube": "new"},
        {"content": ""},
        *exported(memos),
        {**exported(memos)[0], "id": "m_OTHER"},
    ]
    foreseen = memos.import_memories(records, ME, dry_run=True)
    assert (foreseen.added, foreseen.duplicates, foreseen.conflicts, len(foreseen.refused)) == (3, 2, 1, 1)
    assert (memos.status(ME).revision, [r["id"] for r in exported(memos)]) == (revision, [known])
    assert [cube.cube.name for cube in memos.cubes(ME)] == ["default"]
    done = memos.import_memories(records, ME)
    assert (done.added, done.duplicates, done.conflicts, done.kinds) == (3, 2, 1, foreseen.kinds)
