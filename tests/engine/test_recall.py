"""recall through the facade: what is found, what is left out, what was known then, and who may see it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from cubes import Action, Kind
from engine.errors import Invalid, MemosError, NotAllowed, NotFound
from engine.memos import MemOS
from engine.operations import Caller, Principal, Recall
from engine.settings import Settings
from tests.conftest import START, HandClock
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


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A store that tests only read from."""
    clock = HandClock()
    with opened(with_vectors(settings_for(tmp_path_factory.mktemp("library") / "data")), clock) as memos:
        yield SimpleNamespace(
            memos=memos,
            wifi=say(memos, "The guest wifi is called Lighthouse.", tags=("network",), kind=Kind.FACT),
            milk=say(memos, "Anna prefers oat milk in her coffee.", tags=("Anna", "food"), kind=Kind.PREFERENCE),
            trip=say(memos, "We sailed to Skagen.", occurred_at=datetime(2025, 7, 12, tzinfo=UTC), kind=Kind.EVENT),
            talk=say(memos, "We gave a talk in Skagen.", occurred_at=datetime(2026, 1, 5, tzinfo=UTC), kind=Kind.EVENT),
            bread=say(memos, "Bake the rye bread for fifty minutes.", cube="kitchen", kind=Kind.PROCEDURE),
        )


def test_what_is_asked_in_other_words_is_found_by_meaning(library: SimpleNamespace) -> None:
    found = ask(library.memos, "what does she take in her hot drink?")
    assert found.memories[0].memory.id == library.milk
    assert found.degraded is None
    assert all(0.0 <= item.score <= 1.0 for item in found.memories)
    assert found.memories[0].why


def test_filters_leave_out_what_does_not_match(library: SimpleNamespace) -> None:
    memos = library.memos
    assert ids(ask(memos, "Skagen", kinds=(Kind.PREFERENCE,))) in ([], [library.milk])
    assert library.milk not in ids(ask(memos, "milk coffee", tags=("network",)))
    assert ids(ask(memos, "milk coffee", tags=("food",))) == [library.milk]
    new_year = datetime(2026, 1, 1, tzinfo=UTC)
    assert ids(ask(memos, "Skagen", after=new_year, kinds=(Kind.EVENT,))) == [library.talk]
    assert ids(ask(memos, "Skagen", before=new_year, kinds=(Kind.EVENT,))) == [library.trip]
    assert ids(ask(memos, "rye bread", cubes=("default",), tags=("no such tag",))) == []


def test_several_cubes_are_searched_together_or_alone(library: SimpleNamespace) -> None:
    memos = library.memos
    assert ids(ask(memos, "rye bread minutes"))[0] == library.bread
    assert library.bread not in ids(ask(memos, "rye bread minutes", cubes=("default",)))
    assert ids(ask(memos, "rye bread minutes", cubes=("kitchen", "kitchen"))) == [library.bread]
    with pytest.raises(NotFound, match="no cube 'cellar'"):
        ask(memos, "rye bread", cubes=("kitchen", "cellar"))


def test_the_limit_bounds_how_many_come_back(library: SimpleNamespace) -> None:
    assert len(ids(ask(library.memos, "Skagen coffee wifi bread", limit=1))) == 1


def test_what_does_not_fit_the_budget_is_counted_not_cut(memos: MemOS) -> None:
    for number in range(6):
        say(memos, f"Sail number {number} was mended. " + f"Seam {number} held in the storm, says the log. " * 8)
    found = ask(memos, "sail seam storm log", limit=6, max_tokens=250)
    assert 1 <= len(found.memories) < 6
    assert found.omitted == 6 - len(found.memories)
    assert all(text.endswith("says the log. ") for text in contents(found))


def test_nothing_relevant_is_said_and_an_empty_store_is_no_error(memos: MemOS, library: SimpleNamespace) -> None:
    empty = ask(memos, "anything at all")
    assert (empty.memories, empty.nothing_relevant) == ((), True)
    assert ask(library.memos, "photosynthesis of xylophone zebras").nothing_relevant
    assert not ask(library.memos, "what is the guest wifi called?").nothing_relevant


def test_without_an_embedder_it_says_that_it_finds_by_words_alone(memos: MemOS) -> None:
    say(memos, "The guest wifi is called Lighthouse.")
    found = ask(memos, "guest wifi")
    assert len(found.memories) == 1
    assert found.degraded is not None
    assert found.degraded.startswith("lexical only")


# --- time -----------------------------------------------------------------------------------------------------------


def test_what_has_expired_is_not_recalled_whether_or_not_a_sweep_noticed(memos: MemOS, clock: HandClock) -> None:
    id = say(memos, "The parking permit is on the fridge.", expires_in_days=2)
    clock.pass_by(days=2, seconds=-1)
    assert ids(ask(memos, "parking permit")) == [id]
    clock.pass_by(seconds=1)
    assert ids(ask(memos, "parking permit")) == []
    assert state(memos, id) != "expired"
    memos.sweep()
    assert state(memos, id) == "expired"
    assert ids(ask(memos, "parking permit")) == []
    assert ids(ask(memos, "parking permit", include_archived=True)) == [id]


def test_as_of_tells_what_was_known_then(dense: MemOS, clock: HandClock) -> None:
    old = say(dense, "Ben lives in Oslo.")
    gone = say(dense, "Ben drives a red van.")
    then = clock.instant
    clock.pass_by(days=10)
    (new,) = told(dense, "Ben lives in Bergen now.", supersedes=(old,)).stored
    archive(dense, gone)
    clock.pass_by(days=10)
    assert set(ids(ask(dense, "where does Ben live and what does he drive?"))) == {new.id}
    past = ask(dense, "where does Ben live and what does he drive?", as_of=then + timedelta(days=1))
    assert set(ids(past)) == {old, gone}
    assert {item.memory.state.value for item in past.memories} == {"generated"}
    assert ask(dense, "Ben", as_of=then - timedelta(seconds=1)).memories == ()
    assert set(ids(ask(dense, "Ben", as_of=clock.now()))) == {new.id}


def test_as_of_brings_back_what_had_not_expired_then_and_nothing_that_was_erased(
    memos: MemOS, clock: HandClock
) -> None:
    lasting, brief = say(memos, "Ticket A for the museum."), say(memos, "Ticket B for the museum.", expires_in_days=1)
    then = clock.instant + timedelta(hours=1)
    clock.pass_by(days=3)
    memos.sweep()
    assert set(ids(ask(memos, "ticket museum", as_of=then))) == {lasting, brief}
    assert set(ids(ask(memos, "ticket museum", as_of=then + timedelta(days=2)))) == {lasting}
    erase(memos, lasting)
    assert set(ids(ask(memos, "ticket museum", as_of=then))) == {brief}


# --- use ------------------------------------------------------------------------------------------------------------


def test_being_recalled_is_counted_and_the_first_time_activates(memos: MemOS, clock: HandClock) -> None:
    id = say(memos, "The ladder is in the shed.")
    assert state(memos, id) == "generated"
    for _ in range(3):
        ask(memos, "ladder shed")
    memos.sweep()
    memory = memos.memory(id, ME).memory
    assert (memory.state.value, memory.version) == ("activated", 1)
    assert (memory.behavioural.access_count, memory.behavioural.last_access) == (3, clock.now())
    ask(memos, "ladder shed", as_of=clock.now())
    memos.sweep()
    assert memos.memory(id, ME).memory.behavioural.access_count == 3
    assert memos.verify(ME) == ()


def test_uses_are_not_lost_by_closing(settings: Settings) -> None:
    with opened(settings) as memos:
        id = say(memos, "The ladder is in the shed.")
        ask(memos, "ladder shed")
    with opened(settings) as memos:
        assert memos.memory(id, ME).memory.behavioural.access_count == 1
        assert state(memos, id) == "activated"


# --- access ---------------------------------------------------------------------------------------------------------

GUEST = Caller(Principal("guest", grants=(("kitchen", (Action.READ,)),)))
STRANGER = Caller(Principal("stranger"))


def test_a_caller_sees_only_what_its_grants_cover(library: SimpleNamespace) -> None:
    memos = library.memos
    assert ids(ask(memos, "wifi milk bread", GUEST)) == [library.bread]
    assert ask(memos, "wifi milk bread", STRANGER).memories == ()
    assert [view.cube.name for view in memos.cubes(GUEST)] == ["kitchen"]
    assert (memos.complete_cubes("", GUEST), memos.complete_ids("m_", GUEST)) == (("kitchen",), (library.bread,))
    status = memos.status(GUEST)
    assert (status.cubes, dict(status.counts).get("generated", 0) + dict(status.counts).get("activated", 0)) == (1, 1)
    assert {record["cube"] for record in memos.export_memories(GUEST)} == {"kitchen"}


def test_what_may_not_be_read_is_not_found_and_nothing_tells_that_it_is_there(library: SimpleNamespace) -> None:
    memos = library.memos

    def refusal(call: object) -> tuple[type[BaseException], str]:
        with pytest.raises(MemosError) as error:
            call()  # type: ignore[operator]
        return type(error.value), str(error.value)

    for hidden, missing in (
        (lambda: memos.memory(library.wifi, GUEST), lambda: memos.memory("m_nowhere", GUEST)),
        (lambda: memos.history(library.wifi, GUEST), lambda: memos.history("m_nowhere", GUEST)),
        (lambda: memos.restore(library.wifi, 99, GUEST), lambda: memos.restore("m_nowhere", 99, GUEST)),
        (lambda: memos.cube("default", GUEST), lambda: memos.cube("nowhere", GUEST)),
        (lambda: memos.memories("default", GUEST), lambda: memos.memories("nowhere", GUEST)),
        (lambda: ask(memos, "x", GUEST, cubes=("default",)), lambda: ask(memos, "x", GUEST, cubes=("nowhere",))),
        (lambda: say(memos, "x", GUEST, cube="default"), lambda: say(memos, "x", GUEST, cube="nowhere")),
    ):
        (kind, text), (other, same) = refusal(hidden), refusal(missing)
        assert kind is other is NotFound
        assert text.replace(library.wifi, "?").replace("default", "?") == same.replace("m_nowhere", "?").replace(
            "nowhere", "?"
        )


def test_who_may_only_read_may_not_write(library: SimpleNamespace) -> None:
    memos = library.memos
    with pytest.raises(NotAllowed, match="guest may not write cube 'kitchen'"):
        say(memos, "Add more salt.", GUEST, cube="kitchen")
    with pytest.raises(NotAllowed):
        erase(memos, library.bread, caller=GUEST)
    with pytest.raises(NotAllowed):
        memos.restore(library.bread, 1, GUEST)
    assert erase(memos, library.wifi, caller=STRANGER).not_found == (library.wifi,)
    with pytest.raises(NotFound):
        told(
            memos,
            "x",
            Caller(Principal("w", grants=(("new", (Action.WRITE,)),))),
            cube="new",
            supersedes=(library.wifi,),
        )
    assert "new" not in memos.complete_cubes("", ME)


# --- bounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        Recall(query=" "),
        Recall(query="x" * 8_001),
        Recall(query="lone \ud800"),
        Recall(query="nul \0"),
        Recall(query="x", limit=0),
        Recall(query="x", limit=101),
        Recall(query="x", max_tokens=49),
        Recall(query="x", max_tokens=100_001),
        Recall(query="x", after=START, before=START),
    ],
)
def test_a_recall_outside_the_bounds_is_refused(library: SimpleNamespace, request_: Recall) -> None:
    with pytest.raises(Invalid):
        library.memos.recall(request_, ME)


@pytest.mark.parametrize(
    "query", ["(", '"open', "a:b AND", "*", "'; DROP TABLE memories; --", "%_%", "日本語", "🚢", "-"]
)
def test_any_text_is_a_query(library: SimpleNamespace, query: str) -> None:
    ask(library.memos, query)


# --- pages ----------------------------------------------------------------------------------------------------------


def test_pages_cover_a_cube_once_in_the_order_of_remembering(memos: MemOS) -> None:
    order = [say(memos, f"Log entry {n} of the voyage.", tags=("even",) if n % 2 == 0 else ()) for n in range(23)]
    seen: list[str] = []
    cursor = None
    while True:
        page = memos.memories("default", ME, cursor=cursor, limit=7)
        seen += [memory.id for memory in page.memories]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == order
    assert len(memos.memories("default", ME, tag="even").memories) == 12
    assert memos.memories("default", ME, state="archived").memories == ()
    with pytest.raises(Invalid):
        memos.memories("default", ME, cursor="nonsense")
