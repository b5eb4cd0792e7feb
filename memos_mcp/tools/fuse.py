"""The tool `fuse`: make one memory of several, one cube of several, or propose what to fuse. Parents stay as merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from engine.cube_operations import FuseCubes
from engine.operations import Caller, Difference, Fuse, Progress
from engine.text.recalled import delimit, remark
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
    quoted,
    takes,
)
from memos_mcp.wire import Arguments, Content, CubeName, MemoryId, parse, unique

if TYPE_CHECKING:
    from engine.memos import MemOS

NOT_MADE = "dry-run"  # stands where a memory's id would
MIN_PARENTS, MAX_PARENTS = 2, 100
MIN_CUBES, MAX_CUBES = 2, 20
SHOWN_CONFLICTS = 20  # in text; there may be thousands between cubes


class FuseArguments(Arguments):
    ids: Annotated[list[MemoryId], Field(min_length=MIN_PARENTS, max_length=MAX_PARENTS)] | None = None
    content: Content | None = None
    cubes: Annotated[list[CubeName], Field(min_length=MIN_CUBES, max_length=MAX_CUBES)] | None = None
    into: CubeName | None = None
    cube: CubeName | None = None
    dry_run: bool = False

    @model_validator(mode="after")
    def _one_target(self) -> FuseArguments:
        if sum(target is not None for target in (self.ids, self.cubes, self.cube)) != 1:
            raise PydanticCustomError(
                "memos",
                "send 'ids' to fuse memories, 'cubes' with 'into' to fuse cubes, or 'cube' to have groups proposed",
            )
        if (self.cubes is None) != (self.into is None):
            raise PydanticCustomError("memos", "'cubes' and 'into' go together: 'into' names the cube that is made")
        if self.ids is None and self.content is not None:
            raise PydanticCustomError("memos", "'content' goes with 'ids': it is what the fused memory says")
        if self.ids is not None and len(set(self.ids)) < MIN_PARENTS:
            raise PydanticCustomError("memos", "'ids' must name at least two different memories")
        return self


def run(memos: MemOS, arguments: Mapping[str, Any], caller: Caller, progress: Progress) -> Result:
    """Fuse or propose."""
    asked = parse(FuseArguments, arguments)
    if asked.cubes is not None and asked.into is not None:
        wanted = FuseCubes(cubes=unique(asked.cubes), into=asked.into, dry_run=asked.dry_run)
        return _cubes_fused(memos, wanted, caller, progress)
    request = Fuse(ids=unique(asked.ids or ()), content=asked.content, cube=asked.cube, dry_run=asked.dry_run)
    fused = memos.fuse(request, caller, progress)
    return {
        "fused": None if fused.id is None else {"id": fused.id, "version": fused.version},
        "merged": list(fused.merged),
        "conflicts": _differences(fused.conflicts),
        "groups": [list(group) for group in fused.groups],
        "content": fused.content,
    }


def _cubes_fused(memos: MemOS, request: FuseCubes, caller: Caller, progress: Progress) -> Result:
    fused = memos.fuse_cubes(request, caller, progress)
    return {
        "fused": None if fused.cube is None else {"cube": fused.cube, "version": fused.version},
        "merged": list(fused.merged),
        "conflicts": _differences(fused.conflicts),
        "groups": [],
        "content": None,
        "into": request.into,
        "memories": fused.memories,
        "joined": fused.joined,
        "before": [{"cube": cube, "snapshot": snapshot} for cube, snapshot in fused.before],
        "adapters": list(fused.adapters),
        "work": fused.work,
    }


def _differences(conflicts: Sequence[Difference]) -> list[Result]:
    return [{"ids": list(conflict.ids), "about": conflict.about} for conflict in conflicts]


def text(result: Result) -> str:
    """What was made of what, or what could be."""
    if "into" in result:
        return _text_of_cubes(result)
    lines = []
    if fused := result["fused"]:
        lines.append(f"Fused into {fused['id']} v{fused['version']}; merged: {', '.join(result['merged'])}.")
    elif result["content"] is not None:
        lines.append("Dry run: nothing was changed. The fused memory would say:")
    if result["content"] is not None:
        lines += [remark(DATA), _block(result)]
    lines += _rivals(result["conflicts"])
    if result["groups"]:
        lines.append(f"{plural(len(result['groups']), 'group')} worth fusing (nothing was changed):")
        lines += [", ".join(group) for group in result["groups"]]
    return "\n".join(lines) or "No group of memories is worth fusing; nothing was changed."


def _text_of_cubes(result: Result) -> str:
    counts = f"{plural(result['memories'], 'memory')}; {plural(result['joined'], 'repetition')} joined"
    if result["fused"] is None:
        lines = [f"Dry run: nothing was changed. Cube {quoted(result['into'])} would hold {counts}."]
    else:
        lines = [f"Fused into cube {quoted(result['into'])} v{result['fused']['version']}, which holds {counts}."]
        lines += [
            f"To undo it: roll {quoted(entry['cube'])} back to {quoted(entry['snapshot'])}."
            for entry in result["before"]
        ]
    if result.get("adapters"):
        took = plural(len(result["adapters"]), "adapter")
        later = f"; {result['work']} makes one of them in the background" if result["work"] else ""
        lines.append(f"It took over {took} of these cubes{later}.")
    lines += _rivals(result["conflicts"][:SHOWN_CONFLICTS])
    if len(result["conflicts"]) > SHOWN_CONFLICTS:
        lines.append(f"and {len(result['conflicts']) - SHOWN_CONFLICTS:,} more differences; both sides are kept.")
    return "\n".join(lines)


def _rivals(conflicts: Sequence[Result]) -> list[str]:
    return [remark(f"They differ about {quoted(rival['about'])}: {', '.join(rival['ids'])}.") for rival in conflicts]


def _block(result: Result) -> str:
    """The fused memory, or one that could be: its content comes from memories, so it is data like theirs."""
    fused = result["fused"]
    return delimit(NOT_MADE if fused is None else fused["id"], {}, result["content"])


FUSE = Tool(
    name="fuse",
    title="Fuse",
    description=(
        "Make one memory of several that overlap, in your own words (content) or as a union, newest first, "
        "differences listed. Or one cube of several (cubes, into). Parents stay as merged, "
        "undoable. With cube alone it proposes groups worth fusing and changes nothing."
    ),
    input_model=FuseArguments,
    input_schema=takes(
        ids=about(STRINGS, minItems=MIN_PARENTS, maxItems=MAX_PARENTS),
        content=about(STRING, "What the fused memory says"),
        cubes=STRINGS,
        into=about(STRING, "With cubes: the cube to make"),
        cube=about(STRING, "Propose groups in this cube"),
        dry_run=BOOLEAN,
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
