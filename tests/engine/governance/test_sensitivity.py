"""Sensitivity: what one may not see does not exist for one, and nothing that one is told depends on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cubes import Action, CubePolicy, Origin, Scope, Sensitivity
from engine.cube_operations import Govern, SetCube
from engine.errors import NotAllowed, NotFound
from engine.memos import MemOS
from engine.operations import Caller, Event, Forget, Fuse, Mode, Principal, Recalled, Remember, Status, Turn
from engine.text.recalled import delimit
from tests.conftest import HandClock
from tests.engine.stores import ME, ask, ids, opened, say, settings_for, told, with_vectors

READER = Caller(Principal("reader"))  # by the cube's scope alone
WRITER = Caller(Principal("writer", grants=(("ours", (Action.WRITE,)),)))
ADMIN = Caller(Principal("admin", grants=(("ours", (Action.ADMIN,)),)))
SECRET, PERSONAL, NORMAL = Sensitivity.SECRET, Sensitivity.PERSONAL, Sensitivity.NORMAL


def share(memos: MemOS, **scopes: Scope) -> None:
    memos.set_cube(SetCube("ours", policy=CubePolicy(**{"read": Scope.SHARED, **scopes})), ME)


def hide(memos: MemOS, *wanted: str, sensitivity: Sensitivity = SECRET) -> None:
    memos.govern(Govern(wanted, sensitivity=sensitivity), ME)


def scores(found: Recalled) -> list[tuple[str, float, tuple[str, ...]]]:
    return [(item.memory.content, item.score, item.why) for item in found.memories]


@pytest.mark.parametrize(
    ("caller", "count"), [(ME, 3), (ADMIN, 3), (WRITER, 2), (READER, 1)], ids=["owner", "admin", "own grant", "scope"]
)
def test_who_sees_what(memos: MemOS, caller: Caller, count: int) -> None:
    share(memos)
    levels = (NORMAL, PERSONAL, SECRET)
    kept = [say(memos, f"The {level} key hangs at {level}.", cube="ours", sensitivity=level) for level in levels]
    assert set(ids(ask(memos, "key", caller))) == set(kept[:count])
    assert [memory.id for memory in memos.memories("ours", caller).memories] == kept[:count]
    assert memos.cube("ours", caller).memories == count
    assert [record["id"] for record in memos.export_memories(caller)] == kept[:count]
    for id in kept[count:]:
        with pytest.raises(NotFound) as refused:
            memos.memory(id, caller)
        with pytest.raises(NotFound) as absent:
            memos.memory("m_nowhere", caller)
        assert str(refused.value).replace(id, "ID") == str(absent.value).replace("m_nowhere", "ID")


@contextmanager
def twins(folder: Path, clock: HandClock, vectors: bool) -> Iterator[tuple[MemOS, MemOS]]:
    """Two stores that hold the same for a reader; one holds secrets besides."""
    one, other = settings_for(folder / "plain"), settings_for(folder / "full")
    with (
        opened(with_vectors(one) if vectors else one, clock) as plain,
        opened(with_vectors(other) if vectors else other, clock) as full,
    ):
        yield plain, full


@pytest.mark.parametrize("vectors", [False, True], ids=["words", "meaning"])
def test_recall_answers_as_if_there_were_no_secrets(tmp_path: Path, clock: HandClock, vectors: bool) -> None:
    open_words = ["The kiln is lit on Mondays.", "Glaze number five is blue.", "The kiln room has two windows."]
    secret = ["The kiln is lit by Zenobia.", "Kiln kiln kiln insurance.", "Glaze five costs forty francs."]
    turns = (Turn("user", "Where is the spare kiln?", "Ada"), Turn("assistant", "Behind the wall.", "Zenobia"))
    with twins(tmp_path, clock, vectors) as (plain, full):
        for memos in (plain, full):
            share(memos)
            for content in open_words:
                say(memos, content, cube="ours")
                clock.pass_by(days=1)
        for content in secret:
            say(full, content, cube="ours", sensitivity=SECRET)
        full.remember(Remember(messages=turns, cube="ours", sensitivity=SECRET), ME)
        for query in (
            "When is the kiln lit?",
            "What does Zenobia say of glaze?",
            "insurance",
            "spare kiln wall",
            "room",
        ):
            assert scores(ask(full, query, READER)) == scores(ask(plain, query, READER)), query
            now = clock.now()
            assert scores(ask(full, query, READER, as_of=now)) == scores(ask(plain, query, READER, as_of=now)), query
            assert ask(full, query, READER).nothing_relevant == ask(plain, query, READER).nothing_relevant


def test_a_limit_is_filled_though_secrets_would_rank_higher(memos: MemOS) -> None:
    share(memos)
    for number in range(120):
        say(memos, f"Harbour harbour harbour berth {number}.", cube="ours", sensitivity=SECRET)
    for number in range(8):
        say(memos, f"Somebody mentioned the harbour on day {number} of that long and eventful trip.", cube="ours")
    assert len(ask(memos, "harbour", READER, limit=8).memories) == 8


def test_a_limit_is_filled_at_past_moments_too(memos: MemOS, clock: HandClock) -> None:
    share(memos)
    loud = [say(memos, f"Harbour harbour harbour berth {number}.", cube="ours") for number in range(60)]
    quiet = [say(memos, f"Somebody mentioned the harbour on day {n} of a long trip.", cube="ours") for n in range(8)]
    then = clock.pass_by(days=1)
    clock.pass_by(days=1)
    hide(memos, *loud)
    assert set(ids(ask(memos, "harbour", READER, limit=8, as_of=then))) == set(quiet)


def test_a_turn_is_not_found_by_the_words_of_a_hidden_turn_beside_it(memos: MemOS) -> None:
    share(memos)
    turns = (Turn("user", "What is the word of the day?"), Turn("assistant", "Xylophone."), Turn("user", "Thanks."))
    stored = memos.remember(Remember(messages=turns, cube="ours", source="chat:1"), ME).stored
    assert len(ask(memos, "xylophone", READER).memories) == 3
    hide(memos, stored[1].id)
    assert ask(memos, "xylophone", READER).memories == ()
    view = memos.memory(stored[0].id, READER)
    assert view.next == stored[2].id
    assert memos.memory(stored[2].id, READER).memory.lineage == ()
    assert memos.memory(stored[2].id, ME).memory.lineage != ()


def test_saying_what_is_in_a_hidden_memory_is_stored_as_new(memos: MemOS) -> None:
    share(memos, write=Scope.SHARED)
    hidden = say(memos, "The vault opens with 1234 turns.", cube="ours", sensitivity=SECRET)
    again = told(memos, "The vault opens with 1234 turns.", READER, cube="ours").stored[0]
    assert again.status is Status.ADDED
    assert again.id != hidden
    rival = told(memos, "The vault opens with 9999 turns.", READER, cube="ours").stored[0]
    assert rival.conflicts_with == (again.id,)
    block = delimit(hidden, {"cube": "ours"}, "The vault opens with 1234 turns.")
    echoed = told(memos, block, READER, cube="ours").stored[0]
    assert echoed.id != hidden
    assert memos.memory(echoed.id, ME).memory.descriptive.origin is Origin.USER  # not recognised as what was recalled
    assert told(memos, block, ME, cube="ours").stored[0].id == hidden
    assert told(memos, "The vault opens with 1234 turns.", ME, cube="ours").stored[0].status is Status.DUPLICATE


def test_secrets_do_not_crowd_out_what_a_new_memory_contradicts(memos: MemOS) -> None:
    share(memos, write=Scope.SHARED)
    seen = say(memos, "The ferry to the island leaves at 7.", cube="ours")
    for hour in range(8, 20):
        say(memos, f"The ferry to the island leaves at {hour} leaves at {hour}.", cube="ours", sensitivity=SECRET)
    answer = told(memos, "The ferry to the island leaves at 6.", READER, cube="ours").stored[0]
    assert answer.conflicts_with == (seen,)


def test_what_is_said_again_as_a_secret_becomes_one_with_all_its_pieces(memos: MemOS) -> None:
    share(memos)
    for content in (
        "The safe is behind the mirror.",
        " ".join(f"Line {n} of the will names heir {n}." for n in range(400)),
    ):
        first = told(memos, content, cube="ours")
        again = told(memos, content, cube="ours", sensitivity=SECRET)
        assert {item.status for item in again.stored} == {Status.DUPLICATE}
        assert [item.id for item in again.stored] == [item.id for item in first.stored]
        for item in again.stored:
            memory = memos.memory(item.id, ME).memory
            assert memory.governance.sensitivity is SECRET
            assert memory.version == item.version
    assert memos.cube("ours", READER).memories == 0


def test_what_supersedes_a_secret_is_one_unless_said_otherwise(memos: MemOS) -> None:
    old = say(memos, "The gate code is in the blue book.", cube="ours", sensitivity=SECRET)
    new = say(memos, "The gate code is in the red book.", cube="ours", supersedes=(old,))
    assert memos.memory(new, ME).memory.governance.sensitivity is SECRET
    last = say(memos, "The gate has no code any more.", cube="ours", supersedes=(new,), sensitivity=NORMAL)
    assert memos.memory(last, ME).memory.governance.sensitivity is NORMAL


def test_nobody_makes_what_it_would_not_see(memos: MemOS) -> None:
    share(memos, write=Scope.SHARED)
    with pytest.raises(NotAllowed, match="may not see secret memories"):
        say(memos, "Anything.", WRITER, cube="ours", sensitivity=SECRET)
    with pytest.raises(NotAllowed, match="may not see personal memories"):
        say(memos, "Anything.", READER, cube="ours", sensitivity=PERSONAL)
    mine = say(memos, "A plain thing.", WRITER, cube="ours")
    with pytest.raises(NotAllowed):
        memos.govern(Govern((mine,), sensitivity=SECRET), WRITER)
    memos.govern(Govern((mine,), sensitivity=SECRET), ADMIN)
    with pytest.raises(NotFound):
        memos.govern(Govern((mine,), sensitivity=NORMAL), WRITER)


def test_a_version_that_was_secret_stays_hidden_after_the_memory_is_opened(memos: MemOS, clock: HandClock) -> None:
    share(memos)
    id = say(memos, "The testament names Ada.", cube="ours", sensitivity=SECRET)
    then = clock.pass_by(days=1)
    clock.pass_by(days=1)
    memos.govern(Govern((id,), sensitivity=NORMAL), ADMIN)
    assert [version.version for version in memos.history(id, READER)] == [2]
    assert [version.version for version in memos.history(id, ADMIN)] == [1, 2]
    assert ask(memos, "testament", READER, as_of=then).memories == ()
    assert ids(ask(memos, "testament", READER)) == [id]
    with pytest.raises(NotFound, match="has no version 1"):
        memos.restore(id, 1, WRITER)


def test_a_memory_that_became_secret_is_hidden_at_every_past_moment(memos: MemOS, clock: HandClock) -> None:
    share(memos)
    id = say(memos, "The testament names Ada.", cube="ours")
    then = clock.pass_by(days=1)
    assert ids(ask(memos, "testament", READER, as_of=then)) == [id]
    hide(memos, id)
    clock.pass_by(days=1)
    assert ask(memos, "testament", READER, as_of=then).memories == ()
    with pytest.raises(NotFound):
        memos.history(id, READER)


def test_making_a_memory_secret_takes_with_it_what_holds_its_words(memos: MemOS) -> None:
    share(memos)
    one, two = say(memos, "Ada keeps goats.", cube="ours"), say(memos, "Ada sells cheese.", cube="ours")
    fused = memos.fuse(Fuse(ids=(one, two)), ME).id
    assert fused is not None
    hide(memos, one)
    assert ask(memos, "goats", READER, include_archived=True).memories == ()
    assert memos.memory(two, READER).memory.content == "Ada sells cheese."
    with pytest.raises(NotFound):
        memos.memory(fused, READER)
    text = say(memos, " ".join(f"Paragraph {n} is about the orchard number {n}." for n in range(400)), cube="ours")
    piece = ids(ask(memos, "orchard number 399", READER, limit=1))[0]
    hide(memos, piece)
    with pytest.raises(NotFound):
        memos.memory(text, READER)
    hide(memos, text)
    assert ask(memos, "orchard", READER).memories == ()


def test_what_hangs_together_with_a_secret_is_not_erased_or_shown_by_who_may_not_see_it(memos: MemOS) -> None:
    share(memos)
    one, two = say(memos, "Ada keeps goats.", cube="ours"), say(memos, "Ada sells cheese.", cube="ours")
    fused = memos.fuse(Fuse(ids=(one, two), content="Ada's farm makes forty thousand."), ME).id
    assert fused is not None
    hide(memos, fused)
    memos.govern(Govern((one, two), sensitivity=NORMAL), ME)
    for refused in (Forget(ids=(one,), mode=Mode.ERASE), Forget(ids=(one,), mode=Mode.ERASE, confirmed=True)):
        with pytest.raises(NotAllowed) as error:
            memos.forget(refused, WRITER)
        assert fused not in str(error.value)
    with pytest.raises(NotAllowed) as error:
        memos.restore(one, 1, WRITER)
    assert fused not in str(error.value)
    assert memos.memory(fused, ME).memory.state.value == "generated"


def test_events_about_secrets_reach_nobody_else(memos: MemOS) -> None:
    from engine.governance.access import hears_of

    heard: list[Event] = []
    memos.listen(heard.append)
    share(memos)
    heard.clear()
    id = say(memos, "A secret.", cube="ours", sensitivity=SECRET)
    memos.forget(Forget(ids=(id,), mode=Mode.ERASE, confirmed=True), ME)
    assert len(heard) == 3  # it was stored, and erased, and the receipt was written
    for event in heard:
        assert hears_of(ADMIN.principal, event) == (True, False)
        assert hears_of(WRITER.principal, event) == (False, False)
        assert hears_of(READER.principal, event) == (False, False)
    heard.clear()
    open_ = say(memos, "Not a secret.", cube="ours")
    hide(memos, open_)
    assert [hears_of(READER.principal, event)[0] for event in heard] == [True, True]  # who saw it learns that it went
    heard.clear()
    memos.set_cube(SetCube("ours", policy=CubePolicy()), ME)
    assert [hears_of(READER.principal, event) for event in heard] == [(False, True)]


def test_a_recorded_answer_is_not_given_again_to_who_may_not_see_it_any_more(memos: MemOS) -> None:
    share(memos, write=Scope.SHARED)
    caller = Caller(Principal("reader"), operation="s:1")
    rival = say(memos, "The boat leaves at 7.", cube="ours")
    answer = memos.remember(Remember("The boat leaves at 8.", cube="ours"), caller)
    assert answer.stored[0].conflicts_with == (rival,)
    hide(memos, rival)
    assert memos.remember(Remember("The boat leaves at 8.", cube="ours"), caller).stored[0].conflicts_with == ()
    hide(memos, answer.stored[0].id)
    with pytest.raises(NotFound):
        memos.remember(Remember("The boat leaves at 8.", cube="ours"), caller)
    assert memos.cube("ours", ME).memories == 2


def test_status_and_revision_tell_nothing_of_secrets(memos: MemOS) -> None:
    share(memos)
    say(memos, "Open.", cube="ours")
    before, view = memos.status(READER), memos.cube("ours", READER)
    id = say(memos, "Hidden.", cube="ours", sensitivity=SECRET)
    assert (memos.status(READER), memos.cube("ours", READER)) == (before, view)
    memos.forget(Forget(ids=(id,), mode=Mode.ERASE, confirmed=True), ME)
    assert (memos.status(READER), memos.cube("ours", READER)) == (before, view)
    assert memos.complete_ids("m_", READER) == tuple(memory.id for memory in memos.memories("ours", READER).memories)
