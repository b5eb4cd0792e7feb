"""The grammar of `memos://`: what can be addressed, how it is spelled, and which addresses a change touches.

Names are percent-encoded in addresses. Nothing here asks the engine whether what is addressed exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import parse_qsl, quote, unquote, urlencode

from engine.errors import Invalid
from engine.operations import Event
from memos_mcp.wire import ID, MAX_ID_CHARS, is_cube_name, shown

SCHEME = "memos://"
MAX_URI_CHARS = 2_048
MAX_QUERY_FIELDS = 8


class Place(Enum):
    """What an address points to. The value is its template."""

    CUBES = "memos://cubes"
    CUBE = "memos://cubes/{cube}"
    MEMORIES = "memos://cubes/{cube}/memories{?cursor,kind,tag,state}"
    SNAPSHOTS = "memos://cubes/{cube}/snapshots"
    CUBE_HISTORY = "memos://cubes/{cube}/history"
    ARTIFACTS = "memos://cubes/{cube}/artifacts"
    MEMORY = "memos://memories/{id}"
    HISTORY = "memos://memories/{id}/history"
    STATUS = "memos://status"


OF_A_CUBE = {
    (): Place.CUBE,
    ("memories",): Place.MEMORIES,
    ("snapshots",): Place.SNAPSHOTS,
    ("history",): Place.CUBE_HISTORY,
    ("artifacts",): Place.ARTIFACTS,
}
OF_A_MEMORY = {(): Place.MEMORY, ("history",): Place.HISTORY}
FILTERS = ("cursor", "kind", "tag", "state")


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address: `name` is the cube or the id, `filters` the query of a list."""

    place: Place
    name: str = ""
    filters: Mapping[str, str] = field(default_factory=dict)


def parse(uri: str) -> Address | None:
    """What `uri` addresses; None when it is no address of ours.

    Raises:
        Invalid: it is one of ours with a query that does not belong there.
    """
    if len(uri) > MAX_URI_CHARS or not uri.startswith(SCHEME) or not uri.isprintable():
        return None
    path, _, query = uri[len(SCHEME) :].partition("?")
    address = _at([unquote(step, errors="replace") for step in path.split("/")])
    if address is None or not query:
        return address
    if address.place is not Place.MEMORIES:
        raise Invalid(f"{shown(uri)!r} takes no query: leave out what follows the question mark")
    return Address(address.place, address.name, _filters(query))


def _at(steps: list[str]) -> Address | None:
    match steps:
        case ["cubes"]:
            return Address(Place.CUBES)
        case ["status"]:
            return Address(Place.STATUS)
        case ["cubes", cube, *rest] if is_cube_name(cube):
            place = OF_A_CUBE.get(tuple(rest))
            return Address(place, cube) if place else None
        case ["memories", memory, *rest] if ID.match(memory) and len(memory) <= MAX_ID_CHARS:
            place = OF_A_MEMORY.get(tuple(rest))
            return Address(place, memory) if place else None
    return None


def _filters(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise Invalid(f"the query {shown(query)!r} cannot be read: use name=value, joined by '&'") from None
    filters = dict(pairs)
    if len(filters) < len(pairs):
        raise Invalid(f"the query {shown(query)!r} names a filter twice: name each once")
    for name, value in filters.items():
        if name not in FILTERS:
            raise Invalid(f"unknown filter '{shown(name)}': use only {', '.join(FILTERS)}")
        if not value or not value.isprintable():
            raise Invalid(f"the filter '{name}' is empty or not printable: leave it out, or send a value")
    return filters


def spell(place: Place, name: str = "", filters: Mapping[str, str] | None = None) -> str:
    """The address of a thing."""
    path = place.value.partition("{?")[0].replace("{cube}", quote(name, safe="")).replace("{id}", quote(name, safe=""))
    return f"{path}?{urlencode(filters, quote_via=quote)}" if filters else path


def canonical(uri: str) -> str | None:
    """The address without its query, as `spell` writes it; None when it is no address of ours."""
    try:
        address = parse(uri)
    except Invalid:
        return None
    return None if address is None else spell(address.place, address.name)


def touched(event: Event) -> set[str]:
    """The canonical addresses of what reads otherwise after `event`: of the lists, of its cube, of its memories."""
    addresses = {spell(Place.CUBES), spell(Place.STATUS)}
    if event.cube:
        addresses |= {spell(place, event.cube) for place in OF_A_CUBE.values()}
    return addresses | {spell(place, memory_id) for place in OF_A_MEMORY.values() for memory_id in event.ids}
