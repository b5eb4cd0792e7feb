"""remember: what is stored, what is a duplicate or a rival of what is there, and what is refused."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from cubes import Kind, Origin, Relation
from engine.errors import Invalid, MemosError, NotFound, TooLarge
from engine.memos import MemOS
from engine.operations import Recall, Remember, Status, Turn
from engine.text.recalled import delimit
from tests.conftest import LONG_S, HandClock
from tests.engine.stores import ME, archive, ask, erase, ids, say, settings_for, state, told, with_vectors

SHARED = profile(suppress_health_check=[HealthCheck.function_scoped_fixture])
TALK = (
    Turn("user", "Where did we leave the ladder?", name="Anna"),
    Turn("assistant", "In the shed behind the greenhouse."),
    Turn("user", "Right. Remind me to bring it back on Friday.", name="Anna"),
)


def count(memos: MemOS) -> int:
    return sum(1 for _ in memos.export_memories(ME))


# --- what is stored -------------------------------------------------------------------------------------------------


def test_a_memory_can_be_read_and_recalled_as_soon_as_it_is_acknowledged(dense: MemOS, clock: HandClock) -> None:
    occurred = datetime(2026, 2, 27, 18, 30, tzinfo=UTC)
    result = told(
        dense,
        "Anna prefers oat milk in her coffee.",
        cube="home",
        kind=Kind.PREFERENCE,
        tags=("coffee", "Anna", "coffee"),
        occurred_at=occurred,
        expires_in_days=30,
        source="chat-17",
    )
    (stored,) = result.stored
    assert (result.cube, stored.version, stored.status) == ("home", 1, Status.ADDED)
    memory = dense.memory(stored.id, ME).memory
    assert memory.content == "Anna prefers oat milk in her coffee."
    about = memory.descriptive
    assert (about.kind, about.tags, about.source, about.origin) == (
        Kind.PREFERENCE,
        ("coffee", "Anna"),
        "chat-17",
        Origin.USER,
    )
    assert about.occurred_at == occurred
    assert about.created_at == about.updated_at == clock.now()
    assert memory.governance.expires_at == clock.now() + timedelta(days=30)
    assert ids(ask(dense, "which milk does she take?")) == [stored.id]
    assert result.revision == dense.status(ME).revision


def test_revisions_grow_with_every_change_and_a_duplicate_is_none(memos: MemOS) -> None:
    first = told(memos, "The gate code changed in May.")
    again = told(memos, "The gate code changed in May.")
    other = told(memos, "The fence was painted in June.")
    assert first.revision == again.revision < other.revision


def test_a_cube_is_made_on_first_use(memos: MemOS) -> None:
    assert memos.cubes(ME) == ()
    say(memos, "One.", cube="notes")
    view = memos.cube("notes", ME)
    assert (view.cube.owner, view.memories, view.states) == ("owner", 1, (("generated", 1),))


@pytest.mark.parametrize("name", ["", " outer", "a/b", "line\nbreak", "x" * 65, "nul\0"])
def test_a_name_that_no_cube_can_have_is_refused(memos: MemOS, name: str) -> None:
    with pytest.raises(Invalid, match="name"):
        say(memos, "Nowhere to go.", cube=name)
    assert memos.cubes(ME) == ()


# --- duplicates and conflicts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "again",
    [
        "The harbour opens at eight.",
        "  the Harbour opens at eight  ",
        "THE HARBOUR OPENS AT EIGHT",
        "“The harbour opens at eight”",
    ],
)
def test_saying_the_same_again_names_the_memory_that_is_there(memos: MemOS, again: str) -> None:
    id = say(memos, "The harbour opens at eight.")
    (stored,) = told(memos, again).stored
    assert (stored.id, stored.status, stored.version) == (id, Status.DUPLICATE, 1)
    assert count(memos) == 1


def test_the_same_words_in_another_cube_are_no_duplicate(memos: MemOS) -> None:
    say(memos, "The harbour opens at eight.", cube="a")
    assert told(memos, "The harbour opens at eight.", cube="b").stored[0].status is Status.ADDED


def test_the_same_words_about_another_day_are_another_event(memos: MemOS) -> None:
    monday, tuesday = datetime(2026, 3, 2, tzinfo=UTC), datetime(2026, 3, 3, tzinfo=UTC)
    id = say(memos, "Went running along the river.", occurred_at=monday)
    assert told(memos, "Went running along the river.", occurred_at=tuesday).stored[0].status is Status.ADDED
    assert told(memos, "Went running along the river.", occurred_at=monday).stored[0].id == id


def test_what_was_archived_or_erased_or_has_expired_is_no_duplicate_of_anything(memos: MemOS, clock: HandClock) -> None:
    archived = say(memos, "The old bridge is closed.")
    archive(memos, archived)
    assert told(memos, "The old bridge is closed.").stored[0].status is Status.ADDED
    erased = say(memos, "The ferry runs at noon.")
    erase(memos, erased)
    assert told(memos, "The ferry runs at noon.").stored[0].status is Status.ADDED
    say(memos, "The lift is out of order.", expires_in_days=1)
    clock.pass_by(days=2)
    assert told(memos, "The lift is out of order.").stored[0].status is Status.ADDED


FACTS = st.sampled_from(
    [
        ("The parcel weighs {} kilograms.", ["3", "13", "30", "3.5", "31", "300"]),
        ("The meeting with the bank is on {}.", ["3 May 2026", "4 May 2026", "3 May 2027", "3 June 2026", "Friday"]),
        ("{} looks after the dog at weekends.", ["Anna", "Hannah", "Anne", "Ben", "Anna Berg", "Ana"]),
        ("The new key {} open the back door.", ["does", "does not", "doesn't", "can", "cannot", "will never"]),
        ("Flight {} leaves from gate B.", ["LH400", "LH401", "LH4000", "BA400"]),
    ]
)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> MemOS:
    """A store that examples of a property share: each example uses a cube of its own."""
    memos = MemOS.open(with_vectors(settings_for(tmp_path_factory.mktemp("busy") / "data")))
    yield memos  # type: ignore[misc]
    memos.close()


_numbers = iter(range(10_000))


@profile(SHARED, max_examples=40)
@given(FACTS, st.data())
def test_a_changed_digit_name_date_or_negation_is_never_a_duplicate(
    busy: MemOS, fact: tuple[str, list[str]], data: st.DataObject
) -> None:
    template, values = fact
    old, new = data.draw(st.permutations(values))[:2]
    if {old, new} in ({"does not", "doesn't"},):
        return
    cube = f"example {next(_numbers)}"
    id = say(busy, template.format(old), cube=cube)
    (stored,) = told(busy, template.format(new), cube=cube).stored
    assert stored.status in (Status.ADDED, Status.CONFLICT)
    assert stored.id != id
    if stored.status is Status.CONFLICT:
        assert stored.conflicts_with == (id,)


def test_a_rival_is_kept_and_named_with_lineage(dense: MemOS) -> None:
    old = say(dense, "The office wifi is on channel 6.")
    (stored,) = told(dense, "The office wifi is on channel 11.").stored
    assert (stored.status, stored.conflicts_with) == (Status.CONFLICT, (old,))
    assert state(dense, old) == "generated"
    edges = {(edge.relation, edge.source) for edge in dense.memory(stored.id, ME).memory.lineage}
    assert (Relation.CONFLICTS_WITH, old) in edges
    assert dense.memory(old, ME).derived == (("conflicts_with", stored.id),)


def test_what_supersedes_archives_the_old_with_lineage(dense: MemOS) -> None:
    old = say(dense, "Ben lives in Oslo.")
    result = told(dense, "Ben moved to Bergen.", supersedes=(old,))
    (stored,) = result.stored
    assert (stored.status, stored.superseded) == (Status.SUPERSEDING, (old,))
    assert state(dense, old) == "archived"
    assert (Relation.SUPERSEDES, old) in {
        (edge.relation, edge.source) for edge in dense.memory(stored.id, ME).memory.lineage
    }
    assert ids(ask(dense, "where does Ben live?")) == [stored.id]
    assert dense.history(old, ME)[-1].change == "supersede"


def test_superseding_with_what_is_already_known_still_archives_the_old(memos: MemOS) -> None:
    old, known = say(memos, "Ben lives in Oslo."), say(memos, "Ben moved to Bergen.")
    (stored,) = told(memos, "Ben moved to Bergen.", supersedes=(old,)).stored
    assert (stored.id, stored.status, stored.superseded) == (known, Status.SUPERSEDING, (old,))
    assert state(memos, old) == "archived"


def test_an_unknown_memory_to_supersede_changes_nothing(memos: MemOS) -> None:
    old = say(memos, "Ben lives in Oslo.")
    before = memos.status(ME).revision
    with pytest.raises(NotFound, match="m_nowhere"):
        told(memos, "Ben moved to Bergen.", supersedes=(old, "m_nowhere"), cube="another")
    assert memos.status(ME).revision == before
    assert state(memos, old) == "generated"
    assert [view.cube.name for view in memos.cubes(ME)] == ["default"]


def test_recalled_text_that_comes_back_is_the_memory_that_it_was(memos: MemOS) -> None:
    id = say(memos, "The spare key hangs behind the clock.")
    block = delimit(id, {"kind": "fact"}, "The spare key hangs behind the clock.")
    (stored,) = told(memos, block).stored
    assert (stored.id, stored.status) == (id, Status.DUPLICATE)
    assert count(memos) == 1


# --- long texts -----------------------------------------------------------------------------------------------------

CHAPTERS = [
    f"Chapter {n} tells how the keeper of lamp {n} counted {n * 3} ships before the fog came in. " * 6
    for n in range(12)
]


def test_a_long_text_is_found_by_its_pieces_and_read_as_a_whole(dense: MemOS) -> None:
    text = "".join(CHAPTERS).strip()
    result = told(dense, text, source="lamps.txt", tags=("book",))
    whole, *pieces = result.stored
    assert len(pieces) > 3
    assert {stored.status for stored in result.stored} == {Status.ADDED}
    assert dense.memory(whole.id, ME).memory.content == text
    assert dense.memory(whole.id, ME).memory.descriptive.parts == len(pieces)
    assert "".join(dense.memory(piece.id, ME).memory.content for piece in pieces) == text
    for piece in pieces:
        view = dense.memory(piece.id, ME).memory
        assert (Relation.PART_OF, whole.id) in {(edge.relation, edge.source) for edge in view.lineage}
        assert (view.descriptive.source, view.descriptive.tags) == ("lamps.txt", ("book",))
    found = ask(dense, "how many ships did the keeper of lamp 9 count?", max_tokens=5_000)
    assert whole.id not in ids(found)
    assert any("lamp 9" in item.memory.content for item in found.memories[:2])


def test_a_long_text_sent_again_is_a_duplicate_piece_by_piece(memos: MemOS) -> None:
    text = "".join(CHAPTERS)
    first, again = told(memos, text), told(memos, text)
    assert [stored.id for stored in again.stored] == [stored.id for stored in first.stored]
    assert {stored.status for stored in again.stored} == {Status.DUPLICATE}


# --- conversations --------------------------------------------------------------------------------------------------


def test_a_conversation_is_kept_verbatim_in_order_and_linked(memos: MemOS, clock: HandClock) -> None:
    at = clock.now() - timedelta(days=1)
    turns = tuple(
        Turn(turn.role, f"  {turn.content}\n", turn.name, at + timedelta(minutes=n)) for n, turn in enumerate(TALK)
    )
    result = memos.remember(Remember(messages=turns, source="call"), ME)
    assert [stored.status for stored in result.stored] == [Status.ADDED] * 3
    views = [memos.memory(stored.id, ME) for stored in result.stored]
    assert [view.memory.content for view in views] == [turn.content for turn in turns]
    assert {view.memory.kind for view in views} == {Kind.MESSAGE}
    assert [view.memory.descriptive.actor for view in views] == ["Anna", "assistant", "Anna"]
    assert [view.memory.descriptive.occurred_at for view in views] == [turn.at for turn in turns]
    order = [stored.id for stored in result.stored]
    assert [(view.previous, view.next) for view in views] == [(None, order[1]), (order[0], order[2]), (order[1], None)]


def test_a_conversation_sent_again_with_one_turn_more_adds_only_that_turn(memos: MemOS) -> None:
    first = memos.remember(Remember(messages=TALK), ME)
    longer = memos.remember(Remember(messages=(*TALK, Turn("assistant", "I will."))), ME)
    assert [stored.id for stored in longer.stored[:3]] == [stored.id for stored in first.stored]
    assert [stored.status for stored in longer.stored] == [Status.DUPLICATE] * 3 + [Status.ADDED]
    assert memos.memory(longer.stored[3].id, ME).previous == first.stored[2].id


def test_a_turn_that_is_said_twice_in_a_conversation_is_kept_twice(memos: MemOS) -> None:
    turns = (Turn("user", "Yes."), Turn("assistant", "Sure?"), Turn("user", "Yes."))
    assert [stored.status for stored in memos.remember(Remember(messages=turns), ME).stored] == [Status.ADDED] * 3


# --- refusals -------------------------------------------------------------------------------------------------------

KEY = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA7bq8xkPzVqWm3hJt0uYd" * 3


@pytest.mark.parametrize(
    "secret",
    [
        KEY,
        "Use ghp_" + "a8Kd93jfLq02mZxP47sVbN6tRyEwQ1Uo5HcG",
        "The card is 4111 1111 1111 1111.",
        "AWS key AKIAIOSFODNN7QXBMPLE",
    ],
)
def test_a_likely_secret_is_refused_and_nothing_of_the_request_is_stored(memos: MemOS, secret: str) -> None:
    with pytest.raises(Invalid) as refusal:
        say(memos, secret)
    assert secret[4:20] not in str(refusal.value)
    with pytest.raises(Invalid):
        memos.remember(Remember(messages=(Turn("user", "Fine."), Turn("user", secret))), ME)
    assert memos.cubes(ME) == ()


@pytest.mark.parametrize(
    "request_",
    [
        Remember(),
        Remember(content="a", messages=TALK),
        Remember(content="  \n"),
        Remember(content="nul \0 inside"),
        Remember(content="lone \ud800 surrogate"),
        Remember(content="a", tags=("lone \udfff",)),
        Remember(content="a", source="x\x07"),
        Remember(content="x" * 200_001),
        Remember(content="a", expires_in_days=0),
        Remember(content="a", expires_in_days=float("nan")),
        Remember(content="a", occurred_at=datetime(2026, 3, 2)),
        Remember(content="a", tags=("t",) * 65),
        Remember(content="a", cube="lone \ud800"),
        Remember(content="a", supersedes=("m_\ud800",)),
        Remember(content="a", supersedes=("",)),
        Remember(messages=(Turn("nobody", "a"),)),
        Remember(messages=(Turn("user", "a", at=datetime(2026, 3, 2)),)),
    ],
)
def test_bad_input_is_one_clear_error_and_changes_nothing(memos: MemOS, request_: Remember) -> None:
    with pytest.raises(MemosError) as refusal:
        memos.remember(request_, ME)
    assert isinstance(refusal.value, (Invalid, TooLarge, NotFound))
    assert memos.cubes(ME) == ()
    assert memos.status(ME).revision == 0


def test_what_is_said_again_to_last_outlives_its_first_end(memos: MemOS, clock: HandClock) -> None:
    first = memos.remember(Remember(content="The spare key is with Ines.", expires_in_days=1), ME).stored[0]
    again = memos.remember(Remember(content="The spare key is with Ines."), ME).stored[0]
    assert (again.id, again.status, again.version) == (first.id, Status.DUPLICATE, 2)
    clock.pass_by(days=2)
    assert [item.memory.id for item in memos.recall(Recall("Where is the spare key?"), ME).memories] == [first.id]


def test_a_recalled_block_that_was_altered_is_new_and_never_supersedes_itself(memos: MemOS) -> None:
    old = memos.remember(Remember(content="Marit lives in Bergen."), ME).stored[0].id
    block = delimit(old, {}, "Marit lives in Oslo now.")
    (new,) = memos.remember(Remember(content=block, supersedes=(old,)), ME).stored
    assert new.id != old
    assert new.superseded == (old,)
    assert "Oslo" in memos.memory(new.id, ME).memory.content


def test_rivals_told_at_the_same_instant_are_named(memos: MemOS) -> None:
    for round_ in range(5):
        start = threading.Barrier(2)

        def tell(port: int, name: str = f"Service {round_}", start: threading.Barrier = start) -> Status:
            start.wait(LONG_S)
            return memos.remember(Remember(content=f"{name} listens on port {port}."), ME).stored[0].status

        with ThreadPoolExecutor(2) as threads:
            found = sorted(threads.map(tell, (8080, 9090)))
        assert found == [Status.ADDED, Status.CONFLICT]
