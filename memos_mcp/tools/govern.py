"""The tool `govern`: how memories are to be treated: held, protected, ranked, ended, tagged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from cubes import Memory, Sensitivity
from engine.cube_operations import Govern
from engine.governing import MAX_PRIORITY
from engine.operations import Caller, Progress
from memos_mcp import render
from memos_mcp.tools.tool import (
    BOOLEAN,
    INTEGER,
    MAYBE_STRING,
    STRING,
    STRINGS,
    Hints,
    Result,
    Tool,
    about,
    gives,
    listing,
    plural,
    takes,
)
from memos_mcp.wire import MAX_DAYS, Arguments, MemoryIds, Reason, SensitivityName, Tags, Whole, parse, unique

if TYPE_CHECKING:
    from engine.memos import MemOS

SENSITIVITIES = [level.value for level in Sensitivity]
RULES = ("pinned", "frozen", "sensitivity", "priority", "expires_in_days", "tags")


class GovernArguments(Arguments):
    ids: MemoryIds
    pinned: bool | None = None
    frozen: bool | None = None
    sensitivity: SensitivityName | None = None
    priority: Annotated[Whole, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] | None = None
    expires_in_days: Annotated[float, Field(ge=0, le=MAX_DAYS)] | None = None
    tags: Tags | None = None
    reason: Reason | None = None

    @model_validator(mode="after")
    def _something(self) -> GovernArguments:
        if all(getattr(self, name) is None for name in RULES):
            raise PydanticCustomError("memos", f"say what is to hold: one or more of {', '.join(RULES)}")
        return self


def run(memos: MemOS, arguments: Mapping[str, Any], caller: Caller, progress: Progress) -> Result:
    """Set it for all of them, or for none."""
    asked = parse(GovernArguments, arguments)
    request = Govern(
        ids=unique(asked.ids),
        pinned=asked.pinned,
        frozen=asked.frozen,
        priority=asked.priority,
        sensitivity=None if asked.sensitivity is None else Sensitivity(asked.sensitivity),
        expires_in_days=asked.expires_in_days,
        tags=None if asked.tags is None else unique(asked.tags),
        reason=asked.reason,
    )
    return {"memories": [_ruled(memory) for memory in memos.govern(request, caller)]}


def _ruled(memory: Memory) -> Result:
    return {
        "id": memory.id,
        "cube": memory.cube,
        "version": memory.version,
        **render.governance(memory.governance),
        "tags": list(memory.descriptive.tags),
    }


def text(result: Result) -> str:
    """How each is treated from now on."""
    lines = [f"{plural(len(result['memories']), 'memory')} governed:"]
    for row in result["memories"]:
        held = [name for name in ("pinned", "frozen") if row[name]]
        rules = [*held, row["sensitivity"], f"priority {row['priority']}"]
        rules += [f"expires {row['expires_at']}"] if row["expires_at"] else []
        rules += [f"tags {', '.join(row['tags'])}"] if row["tags"] else []
        lines.append(f"{row['id']} v{row['version']}: {'; '.join(rules)}")
    return "\n".join(lines)


GOVERN = Tool(
    name="govern",
    title="Govern",
    description=(
        "Say how memories are treated: pinned (never ended by itself), frozen (nothing changes it until unfrozen), "
        "sensitivity (who may see it), priority, end, tags. What is left out stays as it is."
    ),
    input_model=GovernArguments,
    input_schema=takes(
        "ids",
        ids=STRINGS,
        pinned=BOOLEAN,
        frozen=BOOLEAN,
        sensitivity={**STRING, "enum": SENSITIVITIES},
        priority=about(INTEGER, minimum=-MAX_PRIORITY, maximum=MAX_PRIORITY),
        expires_in_days=about({"type": "number"}, "0 takes the end away", minimum=0),
        tags=about(STRINGS, "All its tags from now on"),
        reason=STRING,
    ),
    output_schema=gives(
        memories=listing(
            gives(
                id=STRING,
                cube=STRING,
                version=INTEGER,
                pinned=BOOLEAN,
                frozen=BOOLEAN,
                sensitivity=STRING,
                priority=INTEGER,
                expires_at=MAYBE_STRING,
                tags=STRINGS,
            )
        )
    ),
    hints=Hints(read_only=False, destructive=False, idempotent=True),
    run=run,
    text=text,
)
