"""The tool `share_cube`: open a cube to others, or let one principal in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from cubes import Action, Scope
from engine.cube_operations import Share
from engine.operations import Caller, Progress
from memos_mcp import render_cubes
from memos_mcp.tools.create_cube import OPENINGS, SCOPES, rules_of
from memos_mcp.tools.tool import STRING, Hints, Result, Tool, about, gives, listing, quoted, takes
from memos_mcp.wire import ActionName, Arguments, CubeName, PrincipalName, Reason, ScopeName, parse, unique

if TYPE_CHECKING:
    from engine.memos import MemOS

ACTIONS = [action.value for action in Action]


class ShareCubeArguments(Arguments):
    cube: CubeName
    read: ScopeName | None = None
    write: ScopeName | None = None
    share: ScopeName | None = None
    principal: PrincipalName | None = None
    actions: Annotated[list[ActionName], Field(max_length=len(ACTIONS))] | None = None
    reason: Reason | None = None

    @model_validator(mode="after")
    def _something(self) -> ShareCubeArguments:
        if (self.principal is None) != (self.actions is None):
            raise PydanticCustomError(
                "memos", "'principal' and 'actions' go together: no actions take the principal's grant away"
            )
        if self.principal is None and all(getattr(self, name) is None for name in OPENINGS):
            raise PydanticCustomError(
                "memos", "say who is let in: 'read', 'write' or 'share', or 'principal' and 'actions'"
            )
        return self


def run(memos: MemOS, arguments: Mapping[str, Any], caller: Caller, progress: Progress) -> Result:
    """Open it, or grant."""
    asked = parse(ShareCubeArguments, arguments)
    scopes = {name: Scope(value) for name in OPENINGS if (value := getattr(asked, name)) is not None}
    actions = None if asked.actions is None else tuple(Action(action) for action in unique(asked.actions))
    request = Share(cube=asked.cube, principal=asked.principal, actions=actions, reason=asked.reason, **scopes)
    return {"cube": render_cubes.cube(memos.share(request, caller))}


def text(result: Result) -> str:
    """Who may do what from now on."""
    cube = result["cube"]
    return f"Cube {quoted(cube['name'])}, version {cube['version']}: {rules_of(cube['policy'])}."


SHARE_CUBE = Tool(
    name="share_cube",
    title="Share a cube",
    description=(
        "Say who may read, write or pass on a cube: private (its owner and who was granted it), shared (everyone with "
        "an access token), public (also packed and passed on by whoever reads it); or grant actions to one principal, "
        "the name of a token. Ask the person first."
    ),
    input_model=ShareCubeArguments,
    input_schema=takes(
        "cube",
        cube=STRING,
        read={**STRING, "enum": SCOPES},
        write={**STRING, "enum": SCOPES},
        share={**STRING, "enum": SCOPES},
        principal=about(STRING, "Name of an access token"),
        actions=about(listing({**STRING, "enum": ACTIONS}), "What it may do; empty: nothing any more"),
        reason=STRING,
    ),
    output_schema=gives(cube={"type": "object"}),
    hints=Hints(read_only=False, destructive=False, idempotent=True),
    run=run,
    text=text,
)
