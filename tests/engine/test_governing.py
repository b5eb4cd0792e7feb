"""govern, set_cube, share: how memories and cubes are to be treated, and by whom that is said."""

from __future__ import annotations

import pytest

from cubes import Action, CubePolicy, Grant, Scope, Sensitivity
from engine.cube_operations import Govern, SetCube, Share
from engine.errors import Frozen, Invalid, NotAllowed, NotFound, TooLarge
from engine.memos import MemOS
from engine.operations import Caller, Fuse, Principal, Remember
from tests.conftest import HandClock
from tests.engine.stores import ME, archive, ask, erase, ids, say, state

STRANGER = Caller(Principal("stranger"))


def token(*actions: Action, cube: str = "ours", name: str = "laptop") -> Caller:
    return Caller(Principal(name, grants=((cube, actions),)))


# --- govern ---------------------------------------------------------------------------------------------------------


def test_governing_makes_a_version_with_author_reason_and_audit_row(memos: MemOS, clock: HandClock) -> None:
    id = say(memos, "The boiler is serviced in May.")
    wanted = Govern((id,), pinned=True, priority=3, expires_in_days=10, tags=("house", "house"), reason="it matters")
    (memory,) = memos.govern(wanted, ME)
    rules = memory.governance
    assert (rules.pinned, rules.priority) == (True, 3)
    assert rules.expires_at is not None
    assert rules.expires_at.replace(microsecond=0) == clock.now().replace(day=12)
    assert (memory.version, memory.descriptive.tags) == (2, ("house",))
    last = memos.history(id, ME)[-1]
    assert (last.change, last.author, last.reason) == ("govern", "owner", "it matters")
    row = memos.audit(ME, since=2)[0]
    assert (row.action, row.ids, row.reason) == ("govern", (id,), "it matters")
    assert row.detail == {"pinned": True, "priority": 3, "fields": ["expires_in_days", "tags"]}
    assert ids(ask(memos, "boiler", tags=("house",))) == [id]
    (memory,) = memos.govern(Govern((id,), expires_in_days=0), ME)
    assert memory.governance.expires_at is None


def test_governing_what_is_so_already_changes_nothing(memos: MemOS) -> None:
    id = say(memos, "The boiler is serviced in May.")
    revision = memos.status(ME).revision
    (memory,) = memos.govern(Govern((id,), pinned=False, sensitivity=Sensitivity.NORMAL), ME)
    assert (memory.version, memos.status(ME).revision) == (1, revision)


def test_a_frozen_memory_can_only_be_unfrozen(memos: MemOS) -> None:
    id, other = say(memos, "The lease ends in 2030."), say(memos, "The rent is 900.")
    memos.govern(Govern((id,), frozen=True), ME)
    memos.govern(Govern((id,), frozen=True), ME)
    for refused in (Govern((other, id), pinned=True), Govern((id,), frozen=False, priority=2)):
        with pytest.raises(Frozen, match=f"{id} is frozen"):
            memos.govern(refused, ME)
    for change in (
        lambda: archive(memos, id),
        lambda: erase(memos, id),
        lambda: memos.fuse(Fuse(ids=(id, other)), ME),
        lambda: memos.remember(Remember("The lease ends in 2031.", supersedes=(id,)), ME),
        lambda: memos.restore(id, 1, ME),
    ):
        with pytest.raises(Frozen):
            change()
    assert memos.memory(other, ME).memory.version == 1
    (memory,) = memos.govern(Govern((id,), frozen=False), ME)
    assert not memory.governance.frozen
    archive(memos, id)


def test_the_pieces_of_a_text_are_treated_as_the_whole(memos: MemOS) -> None:
    text = say(memos, " ".join(f"Section {n} is about the garden bed {n}." for n in range(400)))
    memos.govern(Govern((text,), pinned=True, tags=("garden",)), ME)
    pieces = memos.memory(text, ME).derived
    assert len(pieces) > 1
    for _, piece in pieces:
        memory = memos.memory(piece, ME).memory
        assert (memory.governance.pinned, memory.descriptive.tags) == (True, ("garden",))


def test_governing_needs_write_and_is_all_or_nothing(memos: MemOS) -> None:
    mine, theirs = say(memos, "Ours.", cube="ours"), say(memos, "Theirs.", cube="theirs")
    with pytest.raises(NotFound):
        memos.govern(Govern((mine, theirs), pinned=True), token(Action.WRITE))
    with pytest.raises(NotAllowed):
        memos.govern(Govern((mine,), pinned=True), token(Action.READ))
    assert memos.memory(mine, ME).memory.version == 1
    memos.govern(Govern((mine,), pinned=True), token(Action.WRITE))


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"priority": 5_000},
        {"expires_in_days": -1},
        {"expires_in_days": float("nan")},
        {"expires_in_days": 1e9},
        {"tags": ("",)},
        {"tags": ("x" * 200,)},
        {"pinned": True, "reason": "x" * 5_000},
    ],
    ids=str,
)
def test_values_that_make_no_sense_are_refused(memos: MemOS, wrong: dict[str, object]) -> None:
    id = say(memos, "The boiler is serviced in May.")
    with pytest.raises(Invalid):
        memos.govern(Govern((id,), **wrong), ME)  # type: ignore[arg-type]
    assert memos.memory(id, ME).memory.version == 1


def test_governing_that_is_sent_again_is_done_once(memos: MemOS, clock: HandClock) -> None:
    id = say(memos, "The boiler is serviced in May.")
    caller = Caller(operation="s:1")
    (first,) = memos.govern(Govern((id,), expires_in_days=5), caller)
    clock.pass_by(days=1)
    assert memos.govern(Govern((id,), expires_in_days=5), caller) == (first,)


# --- cubes ----------------------------------------------------------------------------------------------------------


def test_a_cube_is_made_and_changed_with_a_version_each(memos: MemOS) -> None:
    made = memos.set_cube(SetCube("ours", description="Recipes", licence="CC0-1.0", reason="a start"), ME)
    assert (made.version, made.description, made.licence, made.owner) == (1, "Recipes", "CC0-1.0", "owner")
    again = memos.set_cube(SetCube("ours", description="Recipes"), ME)
    assert again == made
    policy = CubePolicy(read=Scope.SHARED, ttl_days=30)
    changed = memos.set_cube(SetCube("ours", policy=policy), ME)
    assert (changed.version, changed.policy, changed.description) == (2, policy, "Recipes")
    rows = memos.audit(ME, cube="ours")
    assert [(row.action, row.reason) for row in rows] == [("create_cube", "a start"), ("set_cube", None)]
    assert rows[1].detail == {"fields": ["read", "ttl_days"]}
    assert memos.set_cube(SetCube("ours", licence=""), ME).licence == ""


def test_a_description_needs_write_and_rules_need_admin(memos: MemOS) -> None:
    memos.set_cube(SetCube("ours"), ME)
    assert memos.set_cube(SetCube("ours", description="Mine too"), token(Action.WRITE)).description == "Mine too"
    for refused in (SetCube("ours", policy=CubePolicy()), SetCube("ours", licence="MIT")):
        with pytest.raises(NotAllowed, match="laptop may not admin cube 'ours'"):
            memos.set_cube(refused, token(Action.WRITE, Action.SHARE))
    memos.set_cube(SetCube("ours", policy=CubePolicy(ttl_days=3)), token(Action.ADMIN))
    for unseen in (SetCube("ours", description="x"), SetCube("new", description="x")):
        with pytest.raises(NotFound, match="there is no cube"):
            memos.set_cube(unseen, STRANGER)
    assert memos.set_cube(SetCube("new", description="x"), token(Action.WRITE, cube="*")).owner == "laptop"
    with pytest.raises(NotAllowed):
        memos.set_cube(SetCube("newer", policy=CubePolicy(ttl_days=3)), token(Action.WRITE, cube="*"))
    assert [view.cube.name for view in memos.cubes(ME)] == ["new", "ours"]


@pytest.mark.parametrize(
    "policy",
    [
        CubePolicy(write=Scope.SHARED),
        CubePolicy(share=Scope.PUBLIC),
        CubePolicy(ttl_days=0),
        CubePolicy(decay_days=float("inf")),
        CubePolicy(keep_versions=-1),
        CubePolicy(max_memories=0),
        CubePolicy(max_bytes=2**60),
        CubePolicy(grants=(Grant("owner", (Action.READ,)),)),
        CubePolicy(grants=(Grant("no name!", (Action.READ,)),)),
        CubePolicy(grants=(Grant("laptop", ()),)),
        CubePolicy(grants=(Grant("laptop", (Action.READ,)), Grant("laptop", (Action.WRITE,)))),
    ],
    ids=str,
)
def test_rules_that_make_no_sense_are_refused(memos: MemOS, policy: CubePolicy) -> None:
    with pytest.raises(Invalid):
        memos.set_cube(SetCube("ours", policy=policy), ME)
    assert memos.cubes(ME) == ()


# --- share ----------------------------------------------------------------------------------------------------------


def test_a_grant_lets_one_principal_in_by_name_and_an_empty_one_out_again(memos: MemOS) -> None:
    id = say(memos, "Goulash needs paprika.", cube="ours")
    guest = Caller(Principal("guest"))
    cube = memos.share(Share("ours", principal="guest", actions=(Action.WRITE, Action.READ)), ME)
    assert cube.policy.grants == (Grant("guest", (Action.READ, Action.WRITE)),)
    assert ids(ask(memos, "goulash", guest)) == [id]
    say(memos, "And caraway.", guest, cube="ours")
    assert ask(memos, "goulash", Caller(Principal("guest2"))).memories == ()
    assert memos.share(Share("ours", principal="guest", actions=()), ME).policy.grants == ()
    with pytest.raises(NotFound):
        memos.cube("ours", guest)


def test_who_was_granted_share_may_open_reading_and_nothing_else(memos: MemOS) -> None:
    memos.set_cube(SetCube("ours", policy=CubePolicy(grants=(Grant("other", (Action.READ,)),))), ME)
    sharer = token(Action.SHARE)
    opened = memos.share(Share("ours", read=Scope.SHARED), sharer)
    assert opened.policy.read is Scope.SHARED
    assert opened.policy.grants == ()  # who else was let in is for who administers the cube
    for refused in (Share("ours", write=Scope.SHARED), Share("ours", principal="friend", actions=(Action.READ,))):
        with pytest.raises(NotAllowed):
            memos.share(refused, sharer)
    with pytest.raises(NotAllowed):
        memos.share(Share("ours", read=Scope.PRIVATE), token(Action.WRITE))


def test_a_scope_that_lets_all_pass_a_cube_on_lets_nobody_change_its_scopes(memos: MemOS) -> None:
    memos.set_cube(SetCube("ours", policy=CubePolicy(read=Scope.PUBLIC, share=Scope.PUBLIC)), ME)
    with pytest.raises(NotAllowed):
        memos.share(Share("ours", read=Scope.PRIVATE), STRANGER)


@pytest.mark.parametrize("name", ["owner", "Memos", "", "a b", "../x", "x" * 65])
def test_grants_are_for_names_that_a_token_can_have(memos: MemOS, name: str) -> None:
    memos.set_cube(SetCube("ours"), ME)
    with pytest.raises(Invalid):
        memos.share(Share("ours", principal=name, actions=(Action.READ,)), ME)


def test_sharing_is_audited_and_closing_reading_alone_is_refused_while_writing_is_open(memos: MemOS) -> None:
    memos.set_cube(SetCube("ours"), ME)
    memos.share(Share("ours", read=Scope.SHARED, write=Scope.SHARED, reason="for all"), ME)
    row = memos.audit(ME)[-1]
    assert (row.action, row.reason, row.detail) == ("share", "for all", {"read": "shared", "write": "shared"})
    with pytest.raises(Invalid, match="write is shared and read is private"):
        memos.share(Share("ours", read=Scope.PRIVATE), ME)
    with pytest.raises(Invalid, match="go together"):
        memos.share(Share("ours", principal="laptop"), ME)


# --- limits ---------------------------------------------------------------------------------------------------------


def test_a_full_cube_takes_nothing_more_until_there_is_room(memos: MemOS) -> None:
    memos.set_cube(SetCube("ours", policy=CubePolicy(max_memories=2)), ME)
    first, second = say(memos, "One apple.", cube="ours"), say(memos, "Two pears.", cube="ours")
    for refused in ("Three plums.", " ".join(f"Plum {n} is ripe on day {n}." for n in range(400))):
        with pytest.raises(TooLarge, match="max_memories is 2: forget what is not needed"):
            say(memos, refused, cube="ours")
    assert say(memos, "One apple.", cube="ours") == first
    third = say(memos, "Three plums.", cube="ours", supersedes=(first,))
    with pytest.raises(TooLarge):
        memos.restore(first, 1, ME)
    archive(memos, third)
    memos.restore(first, 1, ME)
    memos.fuse(Fuse(ids=(first, second)), ME)
    say(memos, "Four figs.", cube="ours")
    with pytest.raises(TooLarge):  # undoing the fusion brings both parents back
        memos.restore(second, 1, ME)
    assert memos.verify(ME) == ()


def test_an_import_puts_in_as_many_as_there_is_room_for(memos: MemOS) -> None:
    ids_ = [say(memos, f"Fact number {n} of the log.") for n in range(4)]
    records = list(memos.export_memories(ME))
    erase(memos, *ids_)
    memos.set_cube(SetCube("ours", policy=CubePolicy(max_memories=3)), ME)
    moved = [{**record, "id": f"{record['id']}X", "cube": "ours", "lineage": []} for record in records]
    report = memos.import_memories(moved, ME)
    assert (report.added, len(report.refused)) == (3, 1)
    assert "max_memories is 3" in report.refused[0]


def test_bytes_are_counted_of_what_is_recalled(memos: MemOS) -> None:
    memos.set_cube(SetCube("ours", policy=CubePolicy(max_bytes=20)), ME)
    first = say(memos, "äöü" * 3, cube="ours")
    with pytest.raises(TooLarge, match="would hold 21 bytes, and its max_bytes is 20"):
        say(memos, "abc", cube="ours")
    archive(memos, first)
    say(memos, "abc", cube="ours")


# --- time that passes -----------------------------------------------------------------------------------------------


def test_what_comes_without_an_end_ends_when_its_cube_says(memos: MemOS, clock: HandClock) -> None:
    memos.set_cube(SetCube("ours", policy=CubePolicy(ttl_days=10)), ME)
    usual, longer = say(memos, "Usual.", cube="ours"), say(memos, "Longer.", cube="ours", expires_in_days=20)
    clock.pass_by(days=5)
    assert say(memos, "Usual.", cube="ours") == usual  # said again, it lasts from now on
    clock.pass_by(days=7)
    memos.sweep()
    assert [state(memos, id) for id in (usual, longer)] == ["generated", "generated"]
    clock.pass_by(days=9)
    memos.sweep()
    assert [state(memos, id) for id in (usual, longer)] == ["expired", "expired"]


def test_what_nobody_uses_is_put_away_the_later_the_more_it_matters(memos: MemOS, clock: HandClock) -> None:
    memos.set_cube(SetCube("ours", policy=CubePolicy(decay_days=10)), ME)
    names = ("plain", "used", "matters", "pinned", "frozen", "low")
    kept = {name: say(memos, f"The {name} lantern.", cube="ours") for name in names}
    elsewhere = say(memos, "The lantern elsewhere.")
    memos.govern(Govern((kept["matters"],), priority=1), ME)
    memos.govern(Govern((kept["low"],), priority=-5), ME)
    memos.govern(Govern((kept["pinned"],), pinned=True), ME)
    memos.govern(Govern((kept["frozen"],), frozen=True), ME)

    def away() -> set[str]:
        memos.sweep()
        return {name for name in names if state(memos, kept[name]) == "archived"}

    clock.pass_by(days=8)
    ask(memos, "used")
    assert away() == set()
    clock.pass_by(days=2, minutes=1)
    assert away() == {"plain", "low"}
    clock.pass_by(days=9)
    assert away() == {"plain", "low", "used"}
    clock.pass_by(days=100)
    assert away() == {"plain", "low", "used", "matters"}
    assert state(memos, elsewhere) == "generated"
    assert memos.history(kept["plain"], ME)[-1].change == "decay"
    row = next(row for row in memos.audit(ME, limit=1_000) if row.action == "decay")
    assert (row.actor, set(row.ids)) == ("memos", {kept["plain"], kept["low"]})
    assert memos.verify(ME) == ()


def test_what_is_restored_counts_as_used(memos: MemOS, clock: HandClock) -> None:
    memos.set_cube(SetCube("ours", policy=CubePolicy(decay_days=10)), ME)
    id = say(memos, "The lantern.", cube="ours")
    clock.pass_by(days=11)
    memos.sweep()
    assert state(memos, id) == "archived"
    memos.restore(id, 1, ME)
    clock.pass_by(days=9)
    memos.sweep()
    assert state(memos, id) == "generated"
    clock.pass_by(days=2)
    memos.sweep()
    assert state(memos, id) == "archived"


def test_a_long_text_stays_while_any_piece_of_it_is_used(memos: MemOS, clock: HandClock) -> None:
    memos.set_cube(SetCube("ours", policy=CubePolicy(decay_days=10)), ME)
    text = say(memos, " ".join(f"Chapter {n} is about the lighthouse {n}." for n in range(400)), cube="ours")
    every = [text, *(piece for _, piece in memos.memory(text, ME).derived)]
    for _ in range(3):
        clock.pass_by(days=8)
        assert ask(memos, "lighthouse 7", limit=1).memories
        memos.sweep()
    assert {state(memos, id) for id in every} <= {"generated", "activated"}
    clock.pass_by(days=11)
    memos.sweep()
    assert {state(memos, id) for id in every} == {"archived"}
    memos.restore(text, 1, ME)
    assert "archived" not in {state(memos, id) for id in every}
