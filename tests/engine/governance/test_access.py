"""Access: who may do what with a cube, and what a refusal tells."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubes import Action, CubePolicy, MemCube, Scope
from engine.errors import NotAllowed, NotFound
from engine.governance.access import allowed, require
from engine.operations import OWNER, Principal

WHEN = datetime(2026, 3, 2, tzinfo=UTC)
ACTIONS = st.sampled_from(Action)
GRANTS = st.lists(
    st.tuples(st.sampled_from(["work", "home", "*"]), st.lists(ACTIONS, max_size=4).map(tuple)), max_size=4
)


def cube(**policy: Scope) -> MemCube:
    return MemCube("work", "owner", WHEN, WHEN, policy=CubePolicy(**policy))


def guest(*actions: Action, cube: str = "work") -> Principal:
    return Principal("guest", grants=((cube, actions),))


@pytest.mark.parametrize("action", Action)
def test_the_owner_may_do_everything(action: Action) -> None:
    require(OWNER, cube(), action)


@pytest.mark.parametrize("action", Action)
def test_a_cube_without_a_grant_does_not_exist(action: Action) -> None:
    for stranger in (Principal("stranger"), guest(*Action, cube="home")):
        with pytest.raises(NotFound, match="there is no cube 'work'"):
            require(stranger, cube(), action)


def test_who_may_write_may_read_and_who_may_read_may_not_write() -> None:
    require(guest(Action.WRITE), cube(), Action.READ)
    require(guest(Action.READ), cube(), Action.READ)
    with pytest.raises(NotAllowed, match="guest may not write cube 'work'"):
        require(guest(Action.READ), cube(), Action.WRITE)


def test_a_grant_on_every_cube_covers_each() -> None:
    require(guest(Action.ADMIN, cube="*"), cube(), Action.SHARE)


def test_a_shared_cube_may_be_read_by_everyone_and_written_by_nobody_else() -> None:
    shared = cube(read=Scope.SHARED)
    require(Principal("stranger"), shared, Action.READ)
    with pytest.raises(NotAllowed):
        require(Principal("stranger"), shared, Action.WRITE)


def test_no_policy_gives_the_right_to_administer() -> None:
    open_to_all = cube(read=Scope.PUBLIC, write=Scope.PUBLIC, share=Scope.PUBLIC)
    assert not allowed(Principal("stranger"), open_to_all, Action.ADMIN)


@given(GRANTS, ACTIONS)
def test_whoever_may_do_anything_with_a_cube_may_read_it(
    grants: list[tuple[str, tuple[Action, ...]]], action: Action
) -> None:
    principal = Principal("guest", grants=tuple(grants))
    if allowed(principal, cube(), action):
        assert allowed(principal, cube(), Action.READ)


@given(GRANTS, GRANTS, ACTIONS)
def test_more_grants_never_take_anything_away(
    some: list[tuple[str, tuple[Action, ...]]], more: list[tuple[str, tuple[Action, ...]]], action: Action
) -> None:
    before = Principal("guest", grants=tuple(some))
    after = Principal("guest", grants=(*some, *more))
    assert allowed(after, cube(), action) or not allowed(before, cube(), action)
