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
from tests.engine.stores import ME, archive, ask, erase, ids, opened, say, settings_for, state, told, with_vectors

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
        {"version": 2},
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
