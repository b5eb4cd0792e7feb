"""The tool `restore`: bring a memory back to a version, or a whole cube back to a moment.

A whole cube changes much at once, so it takes two calls: the first says what would happen and gives a token, the
second acts on the token. What stays true: a token holds for one principal, one cube, one moment and one outcome, for
some minutes: where the cube has changed meanwhile, nothing is done.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from cubes.canonical import digest
from engine.cube_operations import MAX_SNAPSHOT_NAME_CHARS, RolledBack
from engine.errors import Conflict, Expired
from engine.operations import CONFIRM_MINUTES, Caller, Progress
from engine.text.recalled import delimit, remark
from memos_mcp import render, render_cubes
from memos_mcp.tools.forget import DATA
from memos_mcp.tools.tool import (
    BOOLEAN,
    INTEGER,
    MAYBE_OBJECT,
    MAYBE_STRING,
    STRING,
    Hints,
    Result,
    Tool,
    about,
    gives,
    plural,
    quoted,
    takes,
)
from memos_mcp.wire import Arguments, Confirm, CubeName, MemoryId, Reason, SnapshotName, Whole, parse

if TYPE_CHECKING:
    from engine.memos import MemOS

PREFIX = "r"
MAX_VERSION = 2**31
OUTCOMES = {
    "restored": "say again what they said then",
    "archived": "did not exist then and are archived",
    "expired": "lived then, but their time has passed since",
    "unfused": "in other cubes live again, as what they were fused into goes",
    "header": "of the cube itself are as they were then",
    "kept": "are frozen and stay as they are",
    "gone": "were erased since, or let go, and do not come back",
}
SHOWN_IDS = 20  # of each outcome, in text
_SECRET = secrets.token_bytes(32)  # a token of an earlier process is asked for again


class RestoreArguments(Arguments):
    id: MemoryId | None = None
    version: Annotated[Whole, Field(ge=1, le=MAX_VERSION)] | None = None
    cube: CubeName | None = None
    to: SnapshotName | None = None
    dry_run: bool = False
    confirm: Confirm | None = None
    reason: Reason | None = None

    @model_validator(mode="after")
    def _one_target(self) -> RestoreArguments:
        of_memory, of_cube = (
            (self.id is not None, self.version is not None),
            (self.cube is not None, self.to is not None),
        )
        if not (all(of_memory) and not any(of_cube)) and not (all(of_cube) and not any(of_memory)):
            raise PydanticCustomError("memos", "send 'id' with 'version' for a memory, or 'cube' with 'to' for a cube")
        if self.id is not None and (self.dry_run or self.confirm is not None):
            raise PydanticCustomError("memos", "'dry_run' and 'confirm' go with 'cube': a memory is restored at once")
        return self


def run(memos: MemOS, arguments: Mapping[str, Any], caller: Caller, progress: Progress) -> Result:
    """Restore, or say what restoring would do."""
    asked = parse(RestoreArguments, arguments)
    if asked.id is not None and asked.version is not None:
        memory = memos.restore(asked.id, asked.version, caller, reason=asked.reason)
        return {"restored": render.whole(memory), "rollback": None, "confirm": None}
    assert asked.cube is not None
    assert asked.to is not None
    if asked.confirm is not None:
        done = memos.answered_rollback(asked.cube, asked.to, caller, asked.reason)
        if done is not None:  # this call was sent again: it has changed what its token stands for
            return {"restored": None, "rollback": {**render_cubes.rolled_back(done), "done": True}, "confirm": None}
    preview = memos.rollback(asked.cube, asked.to, caller, dry_run=True, progress=progress)
    if asked.confirm is None:
        changes = preview.restored or preview.archived or preview.expired or preview.unfused or preview.header
        token = token_for(preview, caller) if changes and not asked.dry_run else None
        return {"restored": None, "rollback": {**render_cubes.rolled_back(preview), "done": False}, "confirm": token}
    check(asked.confirm, preview, caller)
    done = memos.rollback(asked.cube, asked.to, caller, reason=asked.reason, progress=progress)
    return {"restored": None, "rollback": {**render_cubes.rolled_back(done), "done": True}, "confirm": None}


def token_for(preview: RolledBack, caller: Caller) -> str:
    """What acts on exactly this outcome, for some minutes."""
    until = int(time.monotonic()) + 60 * CONFIRM_MINUTES
    return f"{PREFIX}_{until:x}_{_seal(preview, caller, until)}"


def check(token: str, preview: RolledBack, caller: Caller) -> None:
    """Let pass what a preview gave out, while nothing has changed.

    Raises:
        Expired: its minutes are over.
        Conflict: it is no token for this, or the outcome is another one by now.
    """
    prefix, _, rest = token.partition("_")
    number, _, seal = rest.partition("_")
    try:
        until = int(number, 16)
    except ValueError:
        until = 0
    if prefix != PREFIX or not hmac.compare_digest(seal.encode(), _seal(preview, caller, until).encode()):
        raise Conflict(
            f"this token is not for rolling {preview.cube!r} back like this, or the cube has changed since it was "
            "given out: call restore without confirm to see what would happen now; nothing was changed"
        )
    if until < time.monotonic():
        raise Expired(f"the token held for {CONFIRM_MINUTES} minutes: call restore without confirm for another one")


def _seal(preview: RolledBack, caller: Caller, until: int) -> str:
    outcome = [sorted(getattr(preview, name)) for name in OUTCOMES]
    told = digest([caller.principal.name, preview.cube, preview.to.isoformat(), until, outcome])
    return hmac.new(_SECRET, told.encode(), "sha256").hexdigest()[:32]


def text(result: Result) -> str:
    """What is again as it was, or would be."""
    if (memory := result["restored"]) is not None:
        block = delimit(memory["id"], {"cube": memory["cube"], "version": str(memory["version"])}, memory["content"])
        return "\n".join([remark(f"Restored; it is version {memory['version']} now. {DATA}"), block])
    rollback = result["rollback"]
    name, done = quoted(rollback["cube"]), rollback["done"]
    lines = [f"{name} {'is' if done else 'would be'} as it was at {rollback['to']}."]
    for outcome, words in OUTCOMES.items():
        if ids := rollback[outcome]:
            more = f" and {len(ids) - SHOWN_IDS:,} more" if len(ids) > SHOWN_IDS else ""
            what = plural(len(ids), "field" if outcome == "header" else "memory")
            lines.append(f"{what}: {words}: {', '.join(ids[:SHOWN_IDS])}{more}.")
    if done:
        lines.append(f"To undo it: restore cube {name} to {quoted(rollback['before'])}.")
    elif result["confirm"] is not None:
        lines.append(
            f"Nothing is changed yet. To do it, call restore with the same arguments and confirm={result['confirm']!r} "
            f"within {CONFIRM_MINUTES} minutes, after the person has agreed."
        )
    else:
        lines.append("Nothing was changed.")
    return "\n".join(lines)


RESTORE = Tool(
    name="restore",
    title="Restore",
    description=(
        "Bring a memory back to an earlier version (id, version: see history), or a whole cube back to a moment (cube, "
        "to). For a cube the first call only says what would happen and gives confirm: show that to the person, then "
        "call again with it. Both can be undone."
    ),
    input_model=RestoreArguments,
    input_schema=takes(
        id=STRING,
        version=about(INTEGER, minimum=1),
        cube=STRING,
        to=about(STRING, "Name of a snapshot, or ISO datetime", maxLength=MAX_SNAPSHOT_NAME_CHARS),
        dry_run=about(BOOLEAN, "Only say what would happen"),
        confirm=about(STRING, f"Token of the first call, valid {CONFIRM_MINUTES} minutes"),
        reason=STRING,
    ),
    output_schema=gives(restored=MAYBE_OBJECT, rollback=MAYBE_OBJECT, confirm=MAYBE_STRING),
    hints=Hints(read_only=False, destructive=True, idempotent=True),
    run=run,
    text=text,
)
