"""The tool `snapshot`: give the present moment of a cube a name, or list the moments that have one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from engine.operations import Caller, Progress
from engine.text.recalled import remark
from memos_mcp import render_cubes
from memos_mcp.tools.tool import (
    BOOLEAN,
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
from memos_mcp.wire import Arguments, CubeName, Reason, SnapshotName, parse

if TYPE_CHECKING:
    from engine.memos import MemOS


class SnapshotArguments(Arguments):
    cube: CubeName
    name: SnapshotName | None = None
    reason: Reason | None = None
    drop: bool = False

    @model_validator(mode="after")
    def _a_name(self) -> SnapshotArguments:
        if self.name is None and (self.reason is not None or self.drop):
            raise PydanticCustomError(
                "memos", "'name' is required with 'reason' and 'drop'; without it, all are listed"
            )
        return self


def run(memos: MemOS, arguments: Mapping[str, Any], caller: Caller, progress: Progress) -> Result:
    """Name the moment, let a name go, or list them."""
    asked = parse(SnapshotArguments, arguments)
    made = dropped = None
    if asked.name is not None and asked.drop:
        memos.drop_snapshot(asked.cube, asked.name, caller)
        dropped = asked.name
    elif asked.name is not None:
        made = render_cubes.snapshot(memos.snapshot(asked.cube, asked.name, caller, reason=asked.reason))
    return {
        "cube": asked.cube,
        "made": made,
        "dropped": dropped,
        "snapshots": [render_cubes.snapshot(row) for row in memos.snapshots(asked.cube, caller)],
    }


def text(result: Result) -> str:
    """What was named, and what has a name."""
    lines = []
    if result["made"] is not None:
        name, at = quoted(result["made"]["name"]), result["made"]["at"]
        lines.append(f"{quoted(result['cube'])} as it is now ({at}) is called {name}.")
    if result["dropped"] is not None:
        lines.append(f"The name {quoted(result['dropped'])} is gone; the memories are as they were.")
    lines.append(f"{plural(len(result['snapshots']), 'snapshot')} of {quoted(result['cube'])}, oldest first.")
    for row in result["snapshots"]:
        reason = f", because {quoted(row['reason'])}" if row["reason"] else ""
        lines.append(remark(f"{quoted(row['name'])} at {row['at']} by {row['author']}{reason}"))
    return "\n".join(lines)


MOMENT = gives(name=STRING, at=STRING, author=STRING, reason=MAYBE_STRING)

SNAPSHOT = Tool(
    name="snapshot",
    title="Snapshot",
    description=(
        "Give the present moment of a cube a name, so that restore, diff and pack can go back to it. Without a name it "
        "lists the snapshots that there are."
    ),
    input_model=SnapshotArguments,
    input_schema=takes(
        "cube",
        cube=STRING,
        name=about(STRING, "Absent: list"),
        reason=STRING,
        drop=about(BOOLEAN, "Let this name go; memories stay"),
    ),
    output_schema=gives(
        cube=STRING,
        made={"anyOf": [MOMENT, {"type": "null"}]},
        dropped=MAYBE_STRING,
        snapshots=listing(MOMENT),
    ),
    hints=Hints(read_only=False, destructive=False, idempotent=False),
    run=run,
    text=text,
)
