"""The tool `pack_cube`: one cube into one file that can be carried, checked, and installed elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from cubes import Sensitivity
from engine.cube_operations import Pack
from engine.operations import Caller, Progress
from memos_mcp import render_cubes
from memos_mcp.tools.bundle_places import bundle_path, no_secrets_from, shown_path
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
    plural,
    quoted,
    takes,
)
from memos_mcp.wire import Arguments, CubeName, Name, PathText, SnapshotName, parse, unique

if TYPE_CHECKING:
    from engine.memos import MemOS

MAX_RECIPIENTS = 20


class PackCubeArguments(Arguments):
    cube: CubeName
    path: PathText
    replace: bool = False
    history: bool = True
    embeddings: bool = True
    redact: Literal["personal", "secret"] | None = None
    snapshot: SnapshotName | None = None
    sign: bool = True
    recipients: Annotated[list[Name], Field(max_length=MAX_RECIPIENTS)] | None = None
    passphrase_file: PathText | None = None


def run(memos: MemOS, arguments: Mapping[str, Any], caller: Caller, progress: Progress) -> Result:
    """Write the file, whole or not at all."""
    asked, who = parse(PackCubeArguments, arguments), caller.principal
    memos.cube(asked.cube, caller)  # who may not read it learns nothing from what is wrong with the path
    request = Pack(
        cube=asked.cube,
        path=bundle_path(asked.path, who, memos.data),
        replace=asked.replace,
        history=asked.history,
        embeddings=asked.embeddings,
        redact=None if asked.redact is None else Sensitivity(asked.redact),
        snapshot=asked.snapshot,
        sign=asked.sign,
        recipients=unique(asked.recipients or ()),
        passphrase_file=no_secrets_from(who, asked.passphrase_file),
    )
    packed = memos.pack(request, caller, progress)
    return {**render_cubes.packed(packed), "path": shown_path(packed.path, who)}


def text(result: Result) -> str:
    """What is in the file, and what vouches for it."""
    lines = [
        f"Cube {quoted(result['cube'])} is packed into {quoted(result['path'])}: "
        f"{plural(result['memories'], 'memory')}, {plural(result['versions'], 'version')}, {result['bytes']:,} bytes.",
        f"Digest {result['digest']}; "
        + (f"signed by {result['signed_by']}." if result["signed_by"] else "not signed: this store has no key."),
    ]
    if result["redacted"]:
        lines.append(f"Left out: what is {result['redacted']} or more sensitive.")
    lines += [f"{remark[0].upper()}{remark[1:]}." for remark in result["remarks"]]
    return "\n".join(lines)


PACK_CUBE = Tool(
    name="pack_cube",
    title="Pack a cube",
    description=(
        "Write a cube into one .memcube file that any memos-mcp can check and install: memories, history, vectors, "
        "policy, signed with this store's key. path is absolute; with an access token it is a bare name. A file that "
        "is there is kept unless replace. redact leaves out what is sensitive: ask the person before they pass it on."
    ),
    input_model=PackCubeArguments,
    input_schema=takes(
        "cube",
        "path",
        cube=STRING,
        path=about(STRING, "Ends in .memcube"),
        replace=BOOLEAN,
        history=about(BOOLEAN, "With earlier versions", default=True),
        embeddings=about(BOOLEAN, default=True),
        redact=about({**STRING, "enum": ["personal", "secret"]}, "Leave out what is at least this sensitive"),
        snapshot=about(STRING, "As the cube was then"),
        sign=about(BOOLEAN, default=True),
        recipients=about(STRINGS, "Encrypt to these age public keys"),
        passphrase_file=about(STRING, "Encrypt to the passphrase in this file"),
    ),
    output_schema=gives(
        cube=STRING,
        path=STRING,
        memories=INTEGER,
        versions=INTEGER,
        bytes=INTEGER,
        digest=STRING,
        signed_by=MAYBE_STRING,
        redacted=MAYBE_STRING,
        remarks=STRINGS,
    ),
    hints=Hints(read_only=False, destructive=True, idempotent=False),
    run=run,
    text=text,
)
