"""The tool `remember`: from a text or a conversation to stored memories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from cubes import KINDS, Kind, Sensitivity
from engine.operations import DEFAULT_CUBE, MAX_MESSAGES, Caller, Facts, Progress, Remember, Stored, Turn
from memos_mcp.tools.tool import INTEGER, STRING, STRINGS, Hints, Result, Tool, about, gives, listing, plural, takes
from memos_mcp.wire import (
    MAX_DAYS,
    Arguments,
    Content,
    CubeName,
    Instant,
    MemoryIds,
    Name,
    SensitivityName,
    Source,
    Tags,
    TurnContent,
    parse,
    unique,
)

if TYPE_CHECKING:
    from engine.memos import MemOS

KindName = Literal["fact", "preference", "event", "procedure", "document", "message"]
Days = Annotated[float, Field(gt=0, le=MAX_DAYS)]


class TurnArguments(Arguments):
    role: Name
    content: TurnContent
    name: Name | None = None
    at: Instant | None = None


class RememberArguments(Arguments):
    content: Content | None = None
    messages: Annotated[list[TurnArguments], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    cube: CubeName = DEFAULT_CUBE
    kind: KindName | None = None
    tags: Tags | None = None
    occurred_at: Instant | None = None
    expires_in_days: Days | None = None
    source: Source | None = None
    supersedes: MemoryIds | None = None
    sensitivity: SensitivityName | None = None
    facts: Literal["later", "wait", "none"] | None = None

    @model_validator(mode="after")
    def _one_payload(self) -> RememberArguments:
        if (self.content is None) == (self.messages is None):
            raise PydanticCustomError("memos", "send exactly one of 'content' and 'messages'")
        return self


def run(memos: MemOS, arguments: Mapping[str, Any], caller: Caller, progress: Progress) -> Result:
    """Store it."""
    asked = parse(RememberArguments, arguments)
    request = Remember(
        content=asked.content,
        messages=tuple(
            Turn(role=turn.role, content=turn.content, name=turn.name, at=turn.at) for turn in asked.messages or ()
        ),
        cube=asked.cube,
        kind=Kind(asked.kind) if asked.kind else None,
        tags=unique(asked.tags or ()),
        occurred_at=asked.occurred_at,
        expires_in_days=asked.expires_in_days,
        source=asked.source,
        supersedes=unique(asked.supersedes or ()),
        sensitivity=None if asked.sensitivity is None else Sensitivity(asked.sensitivity),
        facts=None if asked.facts is None else Facts(asked.facts),
    )
    remembered = memos.remember(request, caller, progress)
    result: Result = {
        "cube": remembered.cube,
        "revision": remembered.revision,
        "stored": [_stored(stored) for stored in remembered.stored],
    }
    # Only where a reader is configured: what no reader can change is told as without one.
    if remembered.facts:
        result["facts"] = [_stored(stored) for stored in remembered.facts]
    if remembered.work is not None:
        result["work"] = remembered.work
    if remembered.remarks:
        result["remarks"] = list(remembered.remarks)
    return result


def _stored(stored: Stored) -> Result:
    return {
        "id": stored.id,
        "version": stored.version,
        "status": stored.status.value,
        "conflicts_with": list(stored.conflicts_with),
        "superseded": list(stored.superseded),
    }


def text(result: Result) -> str:
    """What was stored, one line for each memory."""
    lines = [f"{plural(len(result['stored']), 'memory')} in cube {result['cube']}, revision {result['revision']}."]
    lines += [_line(stored) for stored in result["stored"]]
    lines += [f"drawn from it: {_line(stored)}" for stored in result.get("facts", ())]
    lines += result.get("remarks", ())
    if result.get("work") and not result.get("facts") and not result.get("remarks"):
        lines.append("Facts are drawn from the turns in the background.")
    return "\n".join(lines)


def _line(stored: Result) -> str:
    line = f"{stored['id']} v{stored['version']}: {stored['status']}"
    if stored["status"] == "duplicate":
        line += " (this was known already; nothing new was stored)"
    if stored["conflicts_with"]:
        line += f"; contradicts {', '.join(stored['conflicts_with'])} (both kept: ask which one holds)"
    if stored["superseded"]:
        line += f"; replaces {', '.join(stored['superseded'])}"
    return line


REMEMBER = Tool(
    name="remember",
    title="Remember",
    description=(
        "Keep something for later sessions and other assistants: a fact, preference, decision, event, how-to, "
        "document or conversation. Write text that stands alone: names, dates and numbers instead of 'she' or "
        "'today'. Duplicates are found; a contradiction is kept and its rival named. "
        "Not for secrets, nor for text that came from recall."
    ),
    input_model=RememberArguments,
    input_schema=takes(
        content=about(STRING, "This or messages"),
        messages=about(
            listing(takes("role", "content", role=STRING, content=STRING, name=STRING, at=about(STRING, "ISO 8601"))),
            "Kept verbatim",
        ),
        cube=about(STRING, "Made on first use", default=DEFAULT_CUBE),
        kind={**STRING, "enum": list(KINDS)},
        tags=STRINGS,
        occurred_at=about(STRING, "When it happened, ISO; 'yesterday' counts from it"),
        expires_in_days=about({"type": "number"}, exclusiveMinimum=0),
        source=about(STRING, "URL, file, conversation"),
        supersedes=about(STRINGS, "Ids that this replaces"),
        sensitivity={**STRING, "enum": [level.value for level in Sensitivity]},
        facts={**STRING, "enum": [when.value for when in Facts]},
    ),
    output_schema=gives(
        cube=STRING,
        revision=INTEGER,
        stored=listing(
            gives(
                id=STRING,
                version=INTEGER,
                status=about(STRING, "added, duplicate, superseding or conflict"),
                conflicts_with=STRINGS,
                superseded=STRINGS,
            )
        ),
    ),  # with a reader also facts, work and remarks, which need no schema: the list of tools is to be small
    hints=Hints(read_only=False, destructive=False, idempotent=True),
    run=run,
    text=text,
)
