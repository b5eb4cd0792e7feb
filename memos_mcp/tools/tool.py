"""What a tool is: a name, a contract on the wire, and a synchronous function from arguments to a result.

A tool knows the engine's facade and the wire, and nothing of MCP sessions or transports: the server and the command
line run it alike. `run` raises the engine's errors; `text` renders its result so that a reader who sees nothing else
has the whole of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from engine.operations import Caller, Progress
from engine.text.recalled import escape

if TYPE_CHECKING:
    from engine.memos import MemOS

Schema = dict[str, Any]
Result = dict[str, Any]
Run = Callable[["MemOS", Mapping[str, Any], Caller, Progress], Result]

STRING: Schema = {"type": "string"}
STRINGS: Schema = {"type": "array", "items": STRING}
INTEGER: Schema = {"type": "integer"}
BOOLEAN: Schema = {"type": "boolean"}
NULL: Schema = {"type": "null"}
MAYBE_STRING: Schema = {"anyOf": [STRING, NULL]}  # clients with a single-type dialect stumble over a list of types
MAYBE_OBJECT: Schema = {"anyOf": [{"type": "object"}, NULL]}


@dataclass(frozen=True, slots=True)
class Hints:
    """What a client may assume. No tool reaches an open world: all of memory is on this machine."""

    read_only: bool
    destructive: bool
    idempotent: bool


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool. `failure` names what went wrong when a complete result is a failure all the same."""

    name: str
    title: str
    description: str
    input_model: type[BaseModel]
    input_schema: Schema
    output_schema: Schema
    hints: Hints
    run: Run
    text: Callable[[Result], str]
    failure: Callable[[Result], str | None] = lambda result: None


def takes(*required: str, **properties: Schema) -> Schema:
    """The schema of a tool's arguments."""
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": list(required)} if required else schema


def gives(**properties: Schema) -> Schema:
    """The schema of an object in a result. All of its fields are always there; a list that says so costs its bytes in
    every conversation, so there is none."""
    return {"type": "object", "properties": properties}


def listing(items: Schema) -> Schema:
    """The schema of an array."""
    return {"type": "array", "items": items}


def about(schema: Schema, description: str = "", **rules: Any) -> Schema:
    """`schema` with further rules, and with a description where one helps."""
    return {**schema, **rules, "description": description} if description else {**schema, **rules}


def quoted(text: str) -> str:
    """A name or a reason that somebody chose, inside a line of ours."""
    return escape(repr(text))


def plural(count: int, noun: str) -> str:
    """`count` things, in words."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else many}"
