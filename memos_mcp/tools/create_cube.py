"""The tool `create_cube`: make a cube, or change what one says of itself and its rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from cubes import CubePolicy, Scope
from engine.cube_operations import SetCube
from engine.errors import NotFound
from engine.operations import Caller, Progress
from memos_mcp import render_cubes
from memos_mcp.tools.tool import (
    BOOLEAN,
    INTEGER,
    STRING,
    Hints,
    Result,
    Tool,
    about,
    gives,
    quoted,
    takes,
)
from memos_mcp.wire import MAX_DAYS, Arguments, CubeName, Description, Licence, Reason, ScopeName, Whole, parse

if TYPE_CHECKING:
    from engine.memos import MemOS

SCOPES = [scope.value for scope in Scope]
MAX_COUNT = 2**53  # what a number in JSON is sure to carry
LIMITS = ("ttl_days", "decay_days", "keep_versions", "keep_days", "max_memories", "max_bytes")
OPENINGS = ("read", "write", "share")
NUMBER = {"type": "number"}

Days = Annotated[float, Field(ge=0, le=MAX_DAYS)]
Count = Annotated[Whole, Field(ge=0, le=MAX_COUNT)]


class CreateCubeArguments(Arguments):
    name: CubeName
    description: Description | None = None
    licence: Licence | None = None
    read: ScopeName | None = None
    write: ScopeName | None = None
    share: ScopeName | None = None
    ttl_days: Days | None = None
    decay_days: Days | None = None
    keep_versions: Count | None = None
    keep_days: Days | None = None
    max_memories: Count | None = None
    max_bytes: Count | None = None
    reason: Reason | None = None


def run(memos: MemOS, arguments: Mapping[str, Any], caller: Caller, progress: Progress) -> Result:
    """Make it, or set what was given."""
    asked = parse(CreateCubeArguments, arguments)
    try:
        present: CubePolicy | None = memos.cube(asked.name, caller).cube.policy
    except NotFound:
        present = None
    cube = memos.set_cube(
        SetCube(
            name=asked.name,
            description=asked.description,
            licence=asked.licence,
            policy=_policy(asked, present or CubePolicy()),
            reason=asked.reason,
        ),
        caller,
    )
    return {"created": present is None, "cube": render_cubes.cube(cube)}


def _policy(asked: CreateCubeArguments, present: CubePolicy) -> CubePolicy | None:
    """The present rules with what was given put in; 0 takes a bound away."""
    given: dict[str, Any] = {name: Scope(value) for name in OPENINGS if (value := getattr(asked, name)) is not None}
    given |= {name: value or None for name in LIMITS if (value := getattr(asked, name)) is not None}
    return replace(present, **given) if given else None


def text(result: Result) -> str:
    """The cube and its rules."""
    cube = result["cube"]
    lines = [f"Cube {quoted(cube['name'])} {'is made' if result['created'] else 'is set'}, version {cube['version']}."]
    if cube["description"]:
        lines.append(f"It is about: {quoted(cube['description'])}")
    return "\n".join([*lines, f"Rules: {rules_of(cube['policy'])}."])


def rules_of(policy: Mapping[str, Any]) -> str:
    """Who may do what, and what is bounded, in words."""
    said = [f"{name} {policy[name]}" for name in OPENINGS]
    said += [f"{grant['principal']} may {', '.join(grant['actions'])}" for grant in policy.get("grants", ())]
    said += [f"{name.replace('_', ' ')} {policy[name]:,}" for name in LIMITS if policy[name] is not None]
    return "; ".join(said)


CREATE_CUBE = Tool(
    name="create_cube",
    title="Create a cube",
    description=(
        "Make a cube for a project or person, with its description, licence and rules; where it exists, set what is "
        "given and leave the rest. A cube is private unless its scopes say otherwise. For limits, 0 is no bound."
    ),
    input_model=CreateCubeArguments,
    input_schema=takes(
        "name",
        name=STRING,
        description=STRING,
        licence=STRING,
        read={**STRING, "enum": SCOPES},
        write={**STRING, "enum": SCOPES},
        share={**STRING, "enum": SCOPES},
        ttl_days=about(NUMBER, "New memories expire after", minimum=0),
        decay_days=about(NUMBER, "Unused memories are archived after", minimum=0),
        keep_versions=about(INTEGER, "Earlier versions kept of each memory", minimum=0),
        keep_days=about(NUMBER, "How long earlier versions are kept", minimum=0),
        max_memories=about(INTEGER, minimum=0),
        max_bytes=about(INTEGER, minimum=0),
        reason=STRING,
    ),
    output_schema=gives(created=BOOLEAN, cube={"type": "object"}),
    hints=Hints(read_only=False, destructive=False, idempotent=True),
    run=run,
    text=text,
)
