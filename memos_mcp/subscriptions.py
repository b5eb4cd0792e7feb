"""Who wants to hear of which resource, and telling them, in both protocol eras.

The engine's events come on a thread of its own and are handed over to the event loop at once. There they are gathered,
so that ten thousand changes are told as one, and each watcher hears only of the addresses that it asked for and of
cubes that its principal may read, and no more once it would not be let in again. A watcher that does not read its
stream delays nobody: what it has missed is merged.

Handshake-era clients subscribe address by address and are told on their standing channel; clients of the 2026 era hold
a `subscriptions/listen` stream, which the SDK's handler serves from a bus of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.abc
from mcp.server import ServerRequestContext
from mcp.server.connection import Connection
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourcesListChanged, ResourceUpdated
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, SubscriptionsListenRequestParams, SubscriptionsListenResult

from engine.governance.access import hears_of
from engine.operations import Event, Principal
from memos_mcp.uris import Place, canonical, spell, touched

if TYPE_CHECKING:
    from engine.memos import MemOS

MAX_WATCHERS = 1_024
MAX_ADDRESSES = 1_000  # of one watcher

LISTS = {spell(Place.CUBES), spell(Place.STATUS)}  # what reads otherwise for whom a cube came into or out of sight

Admitted = Callable[[], bool]


def always() -> bool:
    """Who came in by the daemon's own socket stays in."""
    return True


@dataclass
class News:
    """What was not told yet."""

    updated: set[str] = field(default_factory=set)
    list_changed: bool = False

    def add(self, addresses: Iterable[str], list_changed: bool) -> None:
        self.updated.update(addresses)
        self.list_changed = self.list_changed or list_changed


class Channel(Protocol):
    """How one watcher is told."""

    async def updated(self, uri: str) -> None: ...

    async def list_changed(self) -> None: ...


class StandingChannel:
    """Handshake era: notifications outside any request."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def updated(self, uri: str) -> None:
        await self._connection.send_resource_updated(uri)

    async def list_changed(self) -> None:
        await self._connection.send_resource_list_changed()


class ListenChannel:
    """2026 era: events on the bus of one listen stream."""

    def __init__(self) -> None:
        self.bus = InMemorySubscriptionBus()

    async def updated(self, uri: str) -> None:
        await self.bus.publish(ResourceUpdated(uri))

    async def list_changed(self) -> None:
        await self.bus.publish(ResourcesListChanged())


@dataclass(eq=False)
class Watcher:
    """One client's interests. `addresses` maps each address as the client spelled it to its canonical form."""

    principal: Principal
    channel: Channel
    admitted: Admitted = always
    addresses: dict[str, str] = field(default_factory=dict)
    news: News = field(default_factory=News)
    wake: anyio.Event = field(default_factory=anyio.Event)

    def add(self, uri: str, address: str) -> None:
        if uri not in self.addresses and len(self.addresses) >= MAX_ADDRESSES:
            raise MCPError(INVALID_PARAMS, f"at most {MAX_ADDRESSES} subscriptions each client: unsubscribe some")
        self.addresses[uri] = address

    def hear(self, addresses: set[str], list_changed: bool) -> None:
        self.news.add((uri for uri, address in self.addresses.items() if address in addresses), list_changed)
        self.wake.set()

    async def tell(self) -> None:
        """Tell what there is to tell, for as long as the watcher is there and would still be let in."""
        while True:
            await self.wake.wait()
            self.wake, news, self.news = anyio.Event(), self.news, News()
            for uri in sorted(news.updated):
                if not self.admitted():
                    return
                await self.channel.updated(uri)
            if not self.admitted():
                return
            if news.list_changed:
                await self.channel.list_changed()


class Watchers:
    """All watchers of one server. Used on the event loop only, except `hear`."""

    def __init__(self, memos: MemOS, tasks: anyio.abc.TaskGroup) -> None:
        self._memos, self._tasks = memos, tasks
        self._standing: dict[Connection, Watcher] = {}
        self._watchers: set[Watcher] = set()
        self._events: list[Event] = []
        self._arrived = anyio.Event()

    async def serve(self) -> None:
        """Hand the engine's events to the watchers until cancelled."""
        loop = asyncio.get_running_loop()

        def hear(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
                loop.call_soon_threadsafe(self._take, event)

        stop_listening = self._memos.listen(hear)
        try:
            while True:
                await self._arrived.wait()
                self._arrived, events, self._events = anyio.Event(), self._events, []
                self._spread(events)
        finally:
            stop_listening()

    def _take(self, event: Event) -> None:
        self._events.append(event)
        self._arrived.set()

    def _spread(self, events: list[Event]) -> None:
        news = [(event, touched(event)) for event in _together(events)]
        for watcher in tuple(self._watchers):
            if not watcher.admitted():
                watcher.wake.set()  # to find out that it is over
                continue
            for event, addresses in news:
                told, listed = hears_of(watcher.principal, event)
                if told or listed:
                    watcher.hear(addresses if told else LISTS, listed)

    def _add(self, watcher: Watcher, ended: Callable[[], None]) -> Callable[[], None]:
        """Start telling `watcher`; what is returned stops it. `ended` is called when it may hear no more."""
        if len(self._watchers) >= MAX_WATCHERS:
            raise MCPError(INTERNAL_ERROR, f"{MAX_WATCHERS} clients are listening already: try again later")
        scope = anyio.CancelScope()

        def stop() -> None:
            self._watchers.discard(watcher)
            scope.cancel()

        async def tell() -> None:
            with scope:
                await watcher.tell()
                ended()
                self._watchers.discard(watcher)

        self._watchers.add(watcher)
        self._tasks.start_soon(tell)
        return stop

    def standing(self, ctx: ServerRequestContext[Any, Any], principal: Principal, admitted: Admitted) -> Watcher:
        """The watcher of a handshake-era connection; it ends with the connection."""
        connection = connection_of(ctx)
        if (known := self._standing.get(connection)) is not None:
            return known
        watcher = Watcher(principal, StandingChannel(connection), admitted)

        def forget() -> None:
            self._standing.pop(connection, None)

        stop = self._add(watcher, forget)
        self._standing[connection] = watcher
        connection.exit_stack.callback(stop)
        connection.exit_stack.callback(forget)
        return watcher

    async def listen(
        self,
        ctx: ServerRequestContext[Any, Any],
        params: SubscriptionsListenRequestParams,
        principal: Principal,
        admitted: Admitted,
    ) -> SubscriptionsListenResult:
        """Serve one listen stream of the 2026 era until its client leaves, or would no longer be let in."""
        channel = ListenChannel()
        handler = ListenHandler(channel.bus)
        watcher = Watcher(principal, channel, admitted)
        for uri in params.notifications.resource_subscriptions or ():
            watcher.add(uri, canonical(uri) or uri)
        stop = self._add(watcher, handler.close)
        try:
            return await handler(ctx, params)
        finally:
            stop()


def _together(events: list[Event]) -> list[Event]:
    """As few events as tell the same to the same principals: ten thousand changes may be one."""
    first: dict[tuple[object, ...], Event] = {}
    ids: dict[tuple[object, ...], dict[str, None]] = {}
    for event in events:
        key = (event.cube, event.sensitivity, event.cubes_changed, event.headers)
        first.setdefault(key, event)
        ids.setdefault(key, {}).update(dict.fromkeys(event.ids))
    return [replace(event, ids=tuple(ids[key])) for key, event in first.items()]


def connection_of(ctx: ServerRequestContext[Any, Any]) -> Connection:
    """The connection that a request came in on.

    The SDK documents the connection's `exit_stack` for handlers and leads to it only through this attribute.
    """
    return ctx.session._connection
