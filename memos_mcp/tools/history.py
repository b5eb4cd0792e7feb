"""The tool `history`: what a memory, or a cube's header, was before: each version with its author and its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from engine.operations import MAX_RECALL_TOKENS, MIN_RECALL_TOKENS, RECALL_TOKENS, Caller, Progress
from engine.recall.budget import tokens
from engine.text.recalled import delimit, remark
from memos_mcp import render, render_cubes
from memos_mcp.tools.forget import DATA
from memos_mcp.tools.tool import (
    INTEGER,
    MAYBE_STRING,
    STRING,
    Hints,
    Result,
    Tool,
    about,
    gives,
    listing,
    plural,
    quoted,
    takes,
)
from memos_mcp.wire import Arguments, CubeName, MemoryId, Whole, parse

if TYPE_CHECKING:
    from engine.memos import MemOS

LIMIT, MAX_LIMIT = 20, 200


class HistoryArguments(Arguments):
    id: MemoryId | None = None
    cube: CubeName | None = None
    limit: Annotated[Whole, Field(ge=1, le=MAX_LIMIT)] = LIMIT
    max_tokens: Annotated[Whole, Field(ge=MIN_RECALL_TOKENS, le=MAX_RECALL_TOKENS)] = RECALL_TOKENS

    @model_validator(mode="after")
    def _one_target(self) -> HistoryArguments:
        if (self.id is None) == (self.cube is None):
            raise PydanticCustomError(
                "memos", "send 'id' for a memory's history, or 'cube' for that of a cube's header"
            )
        return self


def run(memos: MemOS, arguments: Mapping[str, Any], caller: Caller, progress: Progress) -> Result:
    """The newest versions, oldest of them first."""
    asked = parse(HistoryArguments, arguments)
    if asked.id is not None:
        rows = memos.history(asked.id, caller)
        versions = [render.version(row) for row in rows[-asked.limit :]]
        return {
            "id": asked.id,
            "cube": None,
            "versions": versions,
            "older": len(rows) - len(versions),
            "omitted": _fit(versions, asked.max_tokens),
        }
    assert asked.cube is not None
    headers = memos.cube_history(asked.cube, caller)
    kept = [render_cubes.cube_version(row) for row in headers[-asked.limit :]]
    return {"id": None, "cube": asked.cube, "versions": kept, "older": len(headers) - len(kept), "omitted": 0}


def _fit(versions: Sequence[Result], max_tokens: int) -> int:
    """Take out the contents that do not fit, oldest first; how many these are. A content is never cut."""
    omitted = 0
    for row in reversed(versions):
        cost = tokens(row["content"])
        if cost <= max_tokens:
            max_tokens -= cost
        else:
            row["content"] = None
            omitted += 1
    return omitted


def text(result: Result) -> str:
    """Each version, its content marked as data."""
    of = result["id"] or f"cube {quoted(result['cube'])}"
    lines = [remark(f"{plural(len(result['versions']), 'version')} of {of}, the newest last. {DATA}")]
    if result["older"]:
        lines.append(remark(f"{plural(result['older'], 'older version')} left out: raise limit to see them."))
    if result["omitted"]:
        lines.append(remark(f"{plural(result['omitted'], 'content')} did not fit: raise max_tokens to see them."))
    block = _memory if result["id"] is not None else _header
    return "\n".join([*lines, *(block(row) for row in result["versions"])])


def _memory(row: Result) -> str:
    names = ("at", "author", "change", "state", "reason")
    attributes = {"version": str(row["version"])} | {name: row[name] for name in names if row[name] is not None}
    if row["content"] is None:
        return delimit(row["id"], {**attributes, "omitted": "over the budget"}, "")
    return delimit(row["id"], attributes, row["content"])


def _header(row: Result) -> str:
    reason = f", because {quoted(row['reason'])}" if row["reason"] else ""
    about_it = f": {quoted(row['description'])}" if row["description"] else ""
    return remark(f"v{row['version']} at {row['at']} by {row['author']}, {row['change']}{reason}{about_it}")


HISTORY = Tool(
    name="history",
    title="History",
    description=(
        "Every version of a memory, or of a cube's header: what it said, since when, who changed it and why. "
        "restore brings a version back."
    ),
    input_model=HistoryArguments,
    input_schema=takes(
        id=about(STRING, "A memory; this or cube"),
        cube=STRING,
        limit=about(INTEGER, "Newest versions", minimum=1, maximum=MAX_LIMIT, default=LIMIT),
        max_tokens=about(INTEGER, minimum=MIN_RECALL_TOKENS, maximum=MAX_RECALL_TOKENS, default=RECALL_TOKENS),
    ),
    output_schema=gives(
        id=MAYBE_STRING,
        cube=MAYBE_STRING,
        versions=listing(
            gives(version=INTEGER, at=STRING, author=STRING, change=STRING, reason=MAYBE_STRING, content=MAYBE_STRING)
        ),
        older=about(INTEGER, "Versions beyond limit"),
        omitted=about(INTEGER, "Contents over the budget: null"),
    ),
    hints=Hints(read_only=True, destructive=False, idempotent=True),
    run=run,
    text=text,
)
