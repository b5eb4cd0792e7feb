"""The tool `fuse`: make one memory of several, or propose which ones to fuse. Parents are kept as merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from engine.operations import Caller, Fuse, Progress
from engine.text.recalled import delimit, escape, remark
from memos_mcp.tools.forget import DATA
from memos_mcp.tools.tool import (
    BOOLEAN,
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
    takes,
)
from memos_mcp.wire import Arguments, Content, CubeName, MemoryId, parse, unique

if TYPE_CHECKING:
    from engine.memos import MemOS

NOT_MADE = "dry-run"  # stands where a memory's id would
MIN_PARENTS, MAX_PARENTS = 2, 100


class FuseArguments(Arguments):
    ids: Annotated[list[MemoryId], Field(min_length=MIN_PARENTS, max_length=MAX_PARENTS)] | None = None
    content: Content | None = None
    cube: CubeName | None = None
    dry_run: bool = False

    @model_validator(mode="after")
    def _one_target(self) -> FuseArguments:
        if (self.ids is None) == (self.cube is None):
            raise PydanticCustomError("memos", "send 'ids' to fuse them, or 'cube' alone to have groups proposed")
        if self.ids is None and self.content is not None:
            raise PydanticCustomError("memos", "'content' goes with 'ids': it is what the fused memory says")
        if self.ids is not None and len(set(self.ids)) < MIN_PARENTS:
            raise PydanticCustomError("memos", "'ids' must name at least two different memories")
        return self


def run(memos: MemOS, arguments: Mapping[str, Any], caller: Caller, progress: Progress) -> Result:
    """Fuse or propose."""
    asked = parse(FuseArguments, arguments)
    request = Fuse(ids=unique(asked.ids or ()), content=asked.content, cube=asked.cube, dry_run=asked.dry_run)
    fused = memos.fuse(request, caller, progress)
    return {
        "fused": None if fused.id is None else {"id": fused.id, "version": fused.version},
        "merged": list(fused.merged),
        "conflicts": [{"ids": list(conflict.ids), "about": conflict.about} for conflict in fused.conflicts],
        "groups": [list(group) for group in fused.groups],
        "content": fused.content,
    }


def text(result: Result) -> str:
    """What was made of what, or what could be."""
    lines = []
    if fused := result["fused"]:
        lines.append(f"Fused into {fused['id']} v{fused['version']}; merged: {', '.join(result['merged'])}.")
    elif result["content"] is not None:
        lines.append("Dry run: nothing was changed. The fused memory would say:")
    if result["content"] is not None:
        lines += [remark(DATA), _block(result)]
    for rival in result["conflicts"]:
        lines.append(remark(f"They differ about {escape(rival['about'])!r}: {', '.join(rival['ids'])}."))
    if result["groups"]:
        lines.append(f"{plural(len(result['groups']), 'group')} worth fusing (nothing was changed):")
        lines += [", ".join(group) for group in result["groups"]]
    return "\n".join(lines) or "No group of memories is worth fusing; nothing was changed."


def _block(result: Result) -> str:
    """The fused memory, or one that could be: its content comes from memories, so it is data like theirs."""
    fused = result["fused"]
    return delimit(NOT_MADE if fused is None else fused["id"], {}, result["content"])


FUSE = Tool(
    name="fuse",
    title="Fuse",
    description=(
        "Make one memory of several that say overlapping things, in your own words (content) or as a deterministic "
        "union, newest first, differences listed. Parents stay as merged, undoable. With cube alone it proposes "
        "groups worth fusing and changes nothing."
    ),
    input_model=FuseArguments,
    input_schema=takes(
        ids=about(STRINGS, minItems=MIN_PARENTS, maxItems=MAX_PARENTS),
        content=about(STRING, "What the fused memory says"),
        cube=about(STRING, "Propose groups in this cube"),
        dry_run=about(BOOLEAN, "Only say what would happen"),
    ),
    output_schema=gives(
        fused=MAYBE_OBJECT,
        merged=STRINGS,
        conflicts=listing(gives(ids=STRINGS, about=STRING)),
        groups=listing(STRINGS),
        content=MAYBE_STRING,
    ),
    hints=Hints(read_only=False, destructive=False, idempotent=False),
    run=run,
    text=text,
)
