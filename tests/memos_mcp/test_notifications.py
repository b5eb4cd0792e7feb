"""Every change is told to every client that listens, in both eras at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from cubes import Action, Sensitivity
from engine.cube_operations import FuseCubes, Govern, Install, Pack, SetCube, Share
from engine.memos import MemOS
from engine.operations import Caller, Forget, Principal, Remember
from memos_mcp.connection import Connection, current_connection
from memos_mcp.uris import OF_A_CUBE, OF_A_MEMORY, Place, spell
from tests.memos_mcp.serving import SOON_S, Era, Heard, connected, remember

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:resources/:mcp.shared.exceptions.MCPDeprecationWarning"),  # handshake era
]

CALLER = Caller()
FOUR: tuple[Era, ...] = ("legacy", "auto", "legacy", "auto")


def of_cube(name: str, *places: Place) -> set[str]:
    return {spell(place, name) for place in places}


@dataclass
class Listener:
    """One client, and what it was told since it was last asked."""

    updated: set[str] = field(default_factory=set)
    lists_changed: int = 0
    legacy: Heard | None = None

    def take(self) -> None:
        if self.legacy is not None:
            self.updated = set(self.legacy.updated)
            self.lists_changed = self.legacy.lists_changed

    def forget(self) -> None:
        self.updated, self.lists_changed = set(), 0
        if self.legacy is not None:
            self.legacy.updated.clear()
            self.legacy.lists_changed = 0

    async def until(self, addresses: set[str], list_changed: bool) -> None:
        with anyio.fail_after(SOON_S):
            while self.take() or not (addresses <= self.updated and (self.lists_changed or not list_changed)):
                await anyio.sleep(0.005)


@asynccontextmanager
async def listening(memos: MemOS, addresses: set[str]) -> AsyncIterator[list[Listener]]:
    """Two clients of each era, each subscribed to all these addresses."""
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(anyio.create_task_group())
        listeners = []
        for era in FOUR:
            heard = Heard() if era == "legacy" else None
            options: dict[str, Any] = {"message_handler": heard} if heard is not None else {}
            client = await stack.enter_async_context(connected(memos, era, **options))
            listener = Listener(legacy=heard)
            if heard is not None:
                for address in sorted(addresses):
                    await client.subscribe_resource(address)
            else:
                events = await stack.enter_async_context(
                    client.listen(resource_subscriptions=sorted(addresses), resources_list_changed=True)
                )
                tasks.start_soon(_collect, events, listener)
            listeners.append(listener)
        yield listeners
        tasks.cancel_scope.cancel()


async def _collect(events: Any, listener: Listener) -> None:
    async for event in events:
        if hasattr(event, "uri"):
            listener.updated.add(event.uri)
        else:
            listener.lists_changed += 1


async def test_every_change_reaches_two_clients_of_each_era(memos: MemOS, tmp_path: Path) -> None:
    kept = memos.remember(Remember(content="The studio is in the old mill.", cube="work"), CALLER).stored[0].id
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.md").write_text("The mill was built in 1820.", "utf-8")
    header = of_cube("work", Place.CUBE, Place.CUBE_HISTORY)
    memory = {spell(place, kept) for place in OF_A_MEMORY.values()}
    everything = {spell(Place.CUBES), spell(Place.STATUS), *memory}
    bundle = tmp_path / "work.memcube"
    memos.pack(Pack("work", bundle), CALLER)
    for name in ("work", "all", "notes", "came in"):
        everything |= of_cube(name, *OF_A_CUBE.values())

    def fuse() -> None:
        memos.remember(Remember(content="The rent is paid.", cube="home"), CALLER)
        memos.fuse_cubes(FuseCubes(("work", "home"), "all"), CALLER)

    steps: list[tuple[str, Callable[[], object], set[str], bool]] = [
        ("snapshot", lambda: memos.snapshot("work", "first", CALLER), of_cube("work", Place.SNAPSHOTS), False),
        ("header", lambda: memos.set_cube(SetCube("work", description="Places"), CALLER), header, True),
        ("share", lambda: memos.share(Share("work", principal="guest", actions=(Action.READ,)), CALLER), header, True),
        ("govern", lambda: memos.govern(Govern((kept,), pinned=True), CALLER), memory, False),
        ("forget", lambda: memos.forget(Forget((kept,)), CALLER), memory, False),
        ("rollback", lambda: memos.rollback("work", "first", CALLER), memory | of_cube("work", Place.SNAPSHOTS), False),
        ("mount", lambda: memos.mount(notes, CALLER, "notes"), of_cube("notes", Place.CUBE), True),
        ("unmount", lambda: memos.unmount("notes", CALLER), of_cube("notes", Place.CUBE), True),
        (
            "install",
            lambda: memos.install(Install(str(bundle), "came in"), CALLER),
            of_cube("came in", Place.CUBE),
            True,
        ),
        ("fuse", fuse, memory | of_cube("all", Place.MEMORIES), True),
        ("delete", lambda: memos.delete_cube("all", CALLER), of_cube("all", *OF_A_CUBE.values()), True),
    ]
    async with listening(memos, everything) as listeners:
        for name, change, addresses, list_changed in steps:
            for listener in listeners:
                listener.forget()
            await anyio.to_thread.run_sync(change)
            for number, listener in enumerate(listeners):
                try:
                    await listener.until({*addresses, spell(Place.CUBES)}, list_changed)
                except TimeoutError:
                    missing = {*addresses, spell(Place.CUBES)} - listener.updated
                    pytest.fail(f"{name}: client {number} ({FOUR[number]}) was not told of {missing or 'the list'}")


async def test_who_loses_sight_of_a_cube_is_told_that_its_list_changed(memos: MemOS) -> None:
    memos.remember(Remember(content="Lunch is on Monday.", cube="team"), CALLER)
    memos.share(Share("team", principal="guest", actions=(Action.READ,)), CALLER)
    heard = Heard()
    token = current_connection.set(Connection(principal=Principal("guest")))
    try:
        async with connected(memos, "legacy", message_handler=heard) as client:
            await client.subscribe_resource("memos://cubes")
            memos.remember(Remember(content="The safe is open.", cube="private"), CALLER)
            memos.share(Share("team", principal="guest", actions=()), CALLER)
            await heard.until(lambda: heard.lists_changed == 1)
            await heard.until(lambda: heard.updated == ["memos://cubes"])
    finally:
        current_connection.reset(token)


async def test_a_change_of_a_secret_memory_is_told_to_nobody_who_may_not_see_it(memos: MemOS) -> None:
    memos.remember(Remember(content="Lunch is on Monday.", cube="team"), CALLER)
    memos.share(Share("team", principal="guest", actions=(Action.READ,)), CALLER)
    heard = Heard()
    token = current_connection.set(Connection(principal=Principal("guest")))
    try:
        async with connected(memos, "legacy", message_handler=heard) as client:
            for place in (Place.CUBE, Place.MEMORIES):
                await client.subscribe_resource(spell(place, "team"))
            hidden = memos.remember(Remember(content="The pin hint is a year.", cube="team"), CALLER).stored[0].id
            await heard.until(lambda: len(heard.updated) == 2)
            memos.govern(Govern((hidden,), sensitivity=Sensitivity.SECRET), CALLER)
            await heard.until(lambda: len(heard.updated) == 4)  # it went out of sight, which is a change
            await client.subscribe_resource(spell(Place.MEMORY, hidden))
            memos.forget(Forget((hidden,)), CALLER)
            memos.remember(Remember(content="Lunch is on Tuesday.", cube="team"), CALLER)
            await heard.until(lambda: len(heard.updated) == 6)
    finally:
        current_connection.reset(token)
    assert spell(Place.MEMORY, hidden) not in heard.updated


async def test_a_client_that_asked_through_a_tool_hears_of_its_own_change_too(memos: MemOS) -> None:
    heard = Heard()
    async with connected(memos, "legacy", message_handler=heard) as client:
        await client.subscribe_resource("memos://cubes/default/memories")
        await remember(client, "The lamp is green.")
        await heard.until(lambda: heard.updated == ["memos://cubes/default/memories"])
