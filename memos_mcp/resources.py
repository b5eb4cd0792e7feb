"""Memory as resources: listing them, reading them, and completing what goes into their addresses.

Bodies are JSON; a memory comes as Markdown too, its content quoted, because it is data. Individual memories are not
listed (there may be a million): cubes are, and a cube's memories come in pages.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    PromptReference,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)

from cubes import KINDS, Kind, State
from engine.errors import Invalid, NotAllowed, NotFound
from engine.operations import Caller, CubeView, MemoryView
from engine.provenance import Traced
from memos_mcp import render, render_cubes, render_scheduler
from memos_mcp.service import Context, caller_of, is_modern
from memos_mcp.uris import OF_A_CUBE, OF_A_MEMORY, Address, Place, parse, spell
from memos_mcp.wire import encodable, shown

if TYPE_CHECKING:
    from engine.memos import MemOS

JSON_TYPE, MARKDOWN_TYPE = "application/json", "text/markdown"
CUBES_A_PAGE = 50
MAX_COMPLETIONS = 100
LEGACY_NOT_FOUND = -32002  # 2025-11-25 and before; the 2026 era says invalid params
STATES = tuple(state.value for state in State)

DESCRIPTIONS = {
    Place.CUBES: ("cubes", "Every cube that you may read, with counts and revision"),
    Place.STATUS: ("status", "How the store is: counts, embedder, indexes, last backup, and what the scheduler did"),
    Place.CUBE: ("cube", "One cube: its header, policy and counts"),
    Place.MEMORIES: ("memories of a cube", "The memories of one cube, in pages, filtered by kind, tag or state"),
    Place.SNAPSHOTS: ("snapshots of a cube", "The named moments of one cube, to which it can be rolled back"),
    Place.CUBE_HISTORY: ("history of a cube", "Every version of one cube's header, oldest first"),
    Place.ARTIFACTS: ("artifacts of a cube", "What was derived from the cube for a local model"),
    Place.MEMORY: (
        "memory",
        "One memory with header and lineage, as JSON and as Markdown. `tier`: where it is kept; `tiers`: what was made "
        "of it for a model",
    ),
    Place.HISTORY: ("history of a memory", "Every version of one memory, oldest first"),
}


async def on_list(ctx: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
    """The resources that there are, cubes in order of their names."""
    memos, caller = ctx.lifespan_context.memos, caller_of(ctx)
    after = _position(params.cursor) if params is not None and params.cursor is not None else None
    views = await ctx.lifespan_context.read(lambda: memos.cubes(caller))
    names = sorted(view.cube.name for view in views)
    rest = names if after is None else [name for name in names if name > after]
    page = rest[:CUBES_A_PAGE]
    listed = [_resource(place) for place in (Place.CUBES, Place.STATUS)] if after is None else []
    listed += [_resource(place, name) for name in page for place in OF_A_CUBE.values()]
    more = len(rest) > CUBES_A_PAGE
    return ListResourcesResult(resources=listed, next_cursor=_cursor(page[-1]) if more else None)


async def on_list_templates(ctx: Context, params: PaginatedRequestParams | None) -> ListResourceTemplatesResult:
    """The shapes of addresses, on one page."""
    if params is not None and params.cursor is not None:
        raise MCPError(INVALID_PARAMS, "resources/templates/list has one page: leave the cursor out")
    places = (*OF_A_CUBE.values(), *OF_A_MEMORY.values())
    return ListResourceTemplatesResult(
        resource_templates=[
            ResourceTemplate(
                name=DESCRIPTIONS[place][0],
                uri_template=place.value,
                description=DESCRIPTIONS[place][1],
                mime_type=JSON_TYPE,
            )
            for place in places
        ]
    )


async def on_read(ctx: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
    """What one address holds."""
    memos, caller, uri = ctx.lifespan_context.memos, caller_of(ctx), params.uri
    address = parse(uri)
    if address is None:
        raise not_found(ctx, uri)
    reader = READERS[address.place]
    try:
        bodies = await ctx.lifespan_context.read(lambda: reader(memos, address, caller))
    except (NotFound, NotAllowed) as error:  # who may not read it need not learn that it is there
        raise not_found(ctx, uri) from error
    return ReadResourceResult(
        contents=[TextResourceContents(uri=uri, mime_type=kind, text=encodable(body)) for kind, body in bodies]
    )


def not_found(ctx: Context, uri: str) -> MCPError:
    """The protocol's own error for a resource that is not there."""
    code = INVALID_PARAMS if is_modern(ctx) else LEGACY_NOT_FOUND
    return MCPError(
        code,
        f"Resource not found: {shown(uri)}; resources/list and memos://cubes show what there is",
        {"uri": encodable(uri[:200])},
    )


# --- what each place holds --------------------------------------------------------------------------------------

Bodies = list[tuple[str, str]]
Reader = Callable[["MemOS", Address, Caller], Bodies]


def _cubes(memos: MemOS, address: Address, caller: Caller) -> Bodies:
    return _json({"cubes": [_linked(view) for view in memos.cubes(caller)]})


def _linked(view: CubeView) -> dict[str, Any]:
    return {**render_cubes.cube_view(view), "uri": spell(Place.CUBE, view.cube.name)}


def _cube(memos: MemOS, address: Address, caller: Caller) -> Bodies:
    return _json(render_cubes.cube_view(memos.cube(address.name, caller)))


def _memories(memos: MemOS, address: Address, caller: Caller) -> Bodies:
    filters = address.filters
    page = memos.memories(
        address.name,
        caller,
        cursor=filters.get("cursor"),
        kind=Kind(_one_of("kind", filters["kind"], KINDS)) if "kind" in filters else None,
        tag=filters.get("tag"),
        state=State(_one_of("state", filters["state"], STATES)) if "state" in filters else None,
    )
    following = {**filters, "cursor": page.next_cursor} if page.next_cursor is not None else None
    return _json(
        {
            "cube": address.name,
            "memories": [render.whole(memory) for memory in page.memories],
            "next_cursor": page.next_cursor,
            "next": spell(Place.MEMORIES, address.name, following) if following else None,
        }
    )


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise Invalid(f"the filter '{name}' must be one of {', '.join(choices)}, not {shown(value)!r}")
    return value


def _snapshots(memos: MemOS, address: Address, caller: Caller) -> Bodies:
    rows = memos.snapshots(address.name, caller)
    return _json({"cube": address.name, "snapshots": [render_cubes.snapshot(row) for row in rows]})


def _cube_history(memos: MemOS, address: Address, caller: Caller) -> Bodies:
    rows = memos.cube_history(address.name, caller)
    return _json({"cube": address.name, "versions": [render_cubes.cube_version(row) for row in rows]})


def _artifacts(memos: MemOS, address: Address, caller: Caller) -> Bodies:
    rows = memos.artifacts(address.name, caller)
    return _json({"cube": address.name, "artifacts": [render_cubes.artifact(row) for row in rows]})


def _memory(memos: MemOS, address: Address, caller: Caller) -> Bodies:
    view = memos.memory(address.name, caller)
    traced = memos.provenance([view.memory], caller).get(view.memory.id)
    return [*_json(render.memory_view(view, traced)), (MARKDOWN_TYPE, _markdown(view, traced))]


def _history(memos: MemOS, address: Address, caller: Caller) -> Bodies:
    versions = memos.history(address.name, caller)
    return _json({"id": address.name, "versions": [render.version(row) for row in versions]})


def _status(memos: MemOS, address: Address, caller: Caller) -> Bodies:
    shown = render.status(memos.status(caller))
    if caller.principal.owner:
        shown["scheduler"] = render_scheduler.standing(memos.scheduler(caller))
    return _json(shown)


READERS: Mapping[Place, Reader] = {
    Place.CUBES: _cubes,
    Place.CUBE: _cube,
    Place.MEMORIES: _memories,
    Place.SNAPSHOTS: _snapshots,
    Place.CUBE_HISTORY: _cube_history,
    Place.ARTIFACTS: _artifacts,
    Place.MEMORY: _memory,
    Place.HISTORY: _history,
    Place.STATUS: _status,
}


def _json(body: dict[str, Any]) -> Bodies:
    return [(JSON_TYPE, json.dumps(body, ensure_ascii=False, separators=(",", ":")))]


def _markdown(view: MemoryView, traced: Traced | None) -> str:
    memory, about = view.memory, view.memory.descriptive
    bundle = traced.bundle if traced is not None else None
    facts = {
        "cube": memory.cube,
        "kind": memory.kind.value,
        "state": memory.state.value,
        "version": str(memory.version),
        "happened": render.when(about.occurred_at),
        "stored": render.when(about.created_at),
        "said by": about.actor,
        "source": about.source,
        "origin": about.origin.value,
        "stored by": traced and traced.author,
        "came with": bundle and f"cube {bundle.cube} of {bundle.owner}, store {bundle.store}",
        "shown from": traced and traced.mounted,
        "sensitivity": memory.governance.sensitivity.value,
        "derived from": ", ".join(f"{edge.source} v{edge.version} ({edge.relation.value})" for edge in memory.lineage),
        "tags": ", ".join(about.tags),
        "also in": ", ".join(f"{held.tier} ({held.artifact}: {held.state})" for held in view.tiers),
    }
    lines = [f"# Memory {memory.id}", "", *(f"- {name}: {value}" for name, value in facts.items() if value), ""]
    return "\n".join([*lines, *(f"> {line}" for line in memory.content.splitlines())])


def _resource(place: Place, name: str = "") -> Resource:
    title, description = DESCRIPTIONS[place]
    return Resource(
        name=title.replace("a cube", name) if "a cube" in title else name or title,
        uri=spell(place, name),
        description=description,
        mime_type=JSON_TYPE,
    )


def _cursor(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _position(cursor: str) -> str:
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (ValueError, binascii.Error):
        raise MCPError(INVALID_PARAMS, "this cursor is none of ours: start again without one") from None


# --- completion -------------------------------------------------------------------------------------------------


async def on_complete(ctx: Context, params: CompleteRequestParams) -> CompleteResult:
    """Names of cubes and ids that begin as the person began."""
    memos, caller, argument = ctx.lifespan_context.memos, caller_of(ctx), params.argument
    _known(params)
    engine: dict[str, Callable[[str, Caller], tuple[str, ...]]] = {
        "cube": memos.complete_cubes,
        "id": memos.complete_ids,
    }
    fixed = {"kind": KINDS, "state": STATES}
    values: tuple[str, ...] = ()
    if (ask := engine.get(argument.name)) is not None:
        values = await ctx.lifespan_context.read(lambda: ask(argument.value, caller))
    elif argument.name in fixed:
        values = tuple(value for value in fixed[argument.name] if value.startswith(argument.value))
    shortened = values[:MAX_COMPLETIONS]
    return CompleteResult(completion=Completion(values=list(shortened), has_more=len(values) >= MAX_COMPLETIONS))


def _known(params: CompleteRequestParams) -> None:
    if isinstance(params.ref, PromptReference):
        return
    templates = {place.value for place in Place}
    if params.ref.uri not in templates:
        raise MCPError(INVALID_PARAMS, f"no resource template {shown(params.ref.uri)!r}: list the templates first")
