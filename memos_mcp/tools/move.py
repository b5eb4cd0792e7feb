"""The tool `move`: take memories, or a whole cube, to another tier of the local model.

Memories stay what they are, in text; what a move makes or drops can be made again. A move to the LoRA tier trains,
which takes a minute and more: its progress is told, and it may go on in the background.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from engine.operations import MAX_IDS, Caller, Progress
from engine.text.recalled import escape, remark
from engine.tier_operations import Held, Move
from memos_mcp import render_tiers
from memos_mcp.tools.tool import (
    BOOLEAN,
    INTEGER,
    MAYBE_OBJECT,
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
    quoted,
    takes,
)
from memos_mcp.wire import Arguments, CubeName, MemoryId, Reason, parse, unique

if TYPE_CHECKING:
    from engine.memos import MemOS

SHOWN = 20  # memories, in text


class MoveArguments(Arguments):
    to: Literal["plaintext", "kv", "lora"]
    ids: Annotated[list[MemoryId], Field(min_length=1, max_length=MAX_IDS)] | None = None
    cube: CubeName | None = None
    dry_run: bool = False
    background: bool = False
    reason: Reason | None = None

    @model_validator(mode="after")
    def _one_target(self) -> MoveArguments:
        if (self.ids is None) == (self.cube is None):
            raise PydanticCustomError("memos", "send exactly one of 'ids' and 'cube'")
        return self


def run(memos: MemOS, arguments: Mapping[str, Any], caller: Caller, progress: Progress) -> Result:
    """Move, or say what would be moved."""
    asked = parse(MoveArguments, arguments)
    request = Move(
        to=Held(asked.to),
        ids=unique(asked.ids or ()),
        cube=asked.cube,
        dry_run=asked.dry_run,
        background=asked.background,
        reason=asked.reason,
    )
    return {**render_tiers.moved(memos.move(request, caller, progress)), "dry_run": asked.dry_run}


def text(result: Result) -> str:
    """What is in the tier now, and what is not."""
    lines, count = [], plural(len(result["moved"]), "memory")
    if result["dry_run"]:
        lines.append(f"{count} would be moved to {result['to']}: {_ids(result['moved'])}. Nothing was changed.")
    elif result["work"] is not None:
        lines.append(f"It goes on in the background as {result['work']}: memos://status says how far it is.")
    elif result["moved"]:
        lines.append(f"{count} in {result['to']}: {_ids(result['moved'])}.")
    else:
        lines.append(f"Nothing was moved to {result['to']}.")
    if (made := result["adapter"]) is not None:
        known = f"it knows {len(made['known'])} of {plural(len(made['sources']), 'memory')}"
        lines.append(f"The adapter of {quoted(made['cube'])}, version {made['version']}, is {made['state']}; {known}.")
    lines += [remark(escape(f"skipped {row['id']}: {row['why']}")) for row in result["skipped"][:SHOWN]]
    if len(result["skipped"]) > SHOWN:
        lines.append(remark(f"and {len(result['skipped']) - SHOWN:,} more were skipped"))
    lines += [remark(escape(said)) for said in result["remarks"]]
    return "\n".join(lines)


def _ids(ids: list[str]) -> str:
    more = f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + more if ids else "none"


MOVE = Tool(
    name="move",
    title="Move",
    description=(
        "Move memories (ids) or a whole cube to a tier of the local model: lora trains them into an adapter, so that "
        "it knows them unread; kv keeps their attention caches; plaintext undoes both. The text stays in every case. "
        "lora takes minutes: use background."
    ),
    input_model=MoveArguments,
    input_schema=takes(
        "to",
        to=about(STRING, enum=[held.value for held in Held]),
        ids=STRINGS,
        cube=STRING,
        dry_run=about(BOOLEAN, "Only say what would be moved"),
        background=BOOLEAN,
        reason=STRING,
    ),
    output_schema=gives(
        to=STRING,
        moved=STRINGS,
        skipped=listing(gives(id=STRING, why=STRING)),
        adapter=MAYBE_OBJECT,
        artifacts=INTEGER,
        work=MAYBE_STRING,
        remarks=STRINGS,
        dry_run=BOOLEAN,
    ),
    hints=Hints(read_only=False, destructive=False, idempotent=True),
    run=run,
    text=text,
)
