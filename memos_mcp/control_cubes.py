"""What the command line asks for about whole cubes, bundles, mounts and the audit log, beside the tools.

Synchronous functions from an asked request to a JSON value, as those of `control`, which runs them. The caller is the
owner of the data folder, on this machine: paths are the person's own, and absolute, since the daemon is in no folder of
theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from cubes import Sensitivity
from engine.cube_operations import Install, Pack, Publish
from engine.operations import Caller
from memos_mcp import render, render_cubes
from memos_mcp.wire import Arguments, CubeName, Name, PathText, Query, Reason, SnapshotName, Whole, parse, unique

if TYPE_CHECKING:
    from engine.memos import MemOS

AUDIT_PAGE, MAX_AUDIT_PAGE = 100, 10_000
MAX_RECIPIENTS = 20
URL_MARK = "://"


class Asked(Protocol):
    """One request while it runs."""

    params: Mapping[str, Any]
    caller: Caller

    def progress(self, done: float, total: float | None, message: str) -> None: ...


def _absolute(text: str) -> str:
    if not Path(text).is_absolute():
        raise PydanticCustomError("memos", "must be an absolute path")
    return text


def _place(text: str) -> str:
    return text if URL_MARK in text else _absolute(text)


FilePath = Annotated[PathText, AfterValidator(_absolute)]
Location = Annotated[PathText, AfterValidator(_place)]


class OfCube(Arguments):
    cube: CubeName


class DeleteArguments(OfCube):
    reason: Reason | None = None


class DiffArguments(OfCube):
    before: SnapshotName
    after: SnapshotName


class PackArguments(OfCube):
    path: FilePath
    replace: bool = False
    history: bool = True
    embeddings: bool = True
    redact: Literal["personal", "secret"] | None = None
    snapshot: SnapshotName | None = None
    sign: bool = True
    recipients: Annotated[list[Name], Field(max_length=MAX_RECIPIENTS)] | None = None
    passphrase_file: FilePath | None = None


class PublishArguments(Arguments):
    source: PathText  # a cube's name, or the path of a bundle
    url: Location
    history: bool = True
    embeddings: bool = True
    redact: Literal["none", "personal", "secret"] = "secret"
    snapshot: SnapshotName | None = None
    sign: bool = True
    recipients: Annotated[list[Name], Field(max_length=MAX_RECIPIENTS)] | None = None
    passphrase_file: FilePath | None = None


class InstallArguments(Arguments):
    source: Location
    name: CubeName | None = None
    upgrade: bool = False
    dry_run: bool = False
    keep_policy: bool = False
    passphrase_file: FilePath | None = None


class ShelfArguments(Arguments):
    url: Location
    query: Query | None = None


class MountArguments(Arguments):
    path: FilePath
    name: CubeName | None = None


class UnmountArguments(Arguments):
    cube: PathText  # a cube's name, or the absolute path of what is mounted


class ReceiptArguments(Arguments):
    id: Name


class AuditArguments(Arguments):
    cube: CubeName | None = None
    since: Annotated[Whole, Field(ge=0)] | None = None  # absent: the last ones
    limit: Annotated[Whole, Field(ge=1, le=MAX_AUDIT_PAGE)] = AUDIT_PAGE


# --- cubes and their moments ----------------------------------------------------------------------------------------


def cube(memos: MemOS, asked: Asked) -> object:
    name, caller = parse(OfCube, asked.params).cube, asked.caller
    return {
        **render_cubes.cube_view(memos.cube(name, caller)),
        "artifacts": [render_cubes.artifact(row) for row in memos.artifacts(name, caller)],
        "snapshots": [render_cubes.snapshot(row) for row in memos.snapshots(name, caller)],
    }


def diff(memos: MemOS, asked: Asked) -> object:
    wanted = parse(DiffArguments, asked.params)
    return render_cubes.diff(memos.diff_cube(wanted.cube, wanted.before, wanted.after, asked.caller))


def delete(memos: MemOS, asked: Asked) -> object:
    wanted = parse(DeleteArguments, asked.params)
    held = memos.delete_cube(wanted.cube, asked.caller, wanted.reason, asked.progress)
    return {"deleted": wanted.cube, "memories": held}


# --- bundles --------------------------------------------------------------------------------------------------------


def _file(path: str | None) -> Path | None:
    return None if path is None else Path(path)


def pack(memos: MemOS, asked: Asked) -> object:
    wanted = parse(PackArguments, asked.params)
    request = Pack(
        cube=wanted.cube,
        path=Path(wanted.path),
        replace=wanted.replace,
        history=wanted.history,
        embeddings=wanted.embeddings,
        redact=None if wanted.redact is None else Sensitivity(wanted.redact),
        snapshot=wanted.snapshot,
        sign=wanted.sign,
        recipients=unique(wanted.recipients or ()),
        passphrase_file=_file(wanted.passphrase_file),
    )
    return render_cubes.packed(memos.pack(request, asked.caller, asked.progress))


def install(memos: MemOS, asked: Asked) -> object:
    wanted = parse(InstallArguments, asked.params)
    request = Install(
        source=wanted.source,
        name=wanted.name,
        upgrade=wanted.upgrade,
        dry_run=wanted.dry_run,
        keep_policy=wanted.keep_policy,
        passphrase_file=_file(wanted.passphrase_file),
    )
    return render_cubes.installed(memos.install(request, asked.caller, asked.progress))


def publish(memos: MemOS, asked: Asked) -> object:
    wanted = parse(PublishArguments, asked.params)
    request = Publish(
        source=wanted.source,
        url=wanted.url,
        history=wanted.history,
        embeddings=wanted.embeddings,
        redact=None if wanted.redact == "none" else Sensitivity(wanted.redact),
        snapshot=wanted.snapshot,
        sign=wanted.sign,
        recipients=unique(wanted.recipients or ()),
        passphrase_file=_file(wanted.passphrase_file),
    )
    return render_cubes.packed(memos.publish(request, asked.caller, asked.progress))


def shelf(memos: MemOS, asked: Asked) -> object:
    wanted = parse(ShelfArguments, asked.params)
    return {"bundles": [render_cubes.shelved(row) for row in memos.shelf(wanted.url, asked.caller, wanted.query)]}


# --- mounts and the audit log ---------------------------------------------------------------------------------------


def mount(memos: MemOS, asked: Asked) -> object:
    wanted = parse(MountArguments, asked.params)
    return render_cubes.mount(memos.mount(Path(wanted.path), asked.caller, wanted.name))


def unmount(memos: MemOS, asked: Asked) -> object:
    name = parse(UnmountArguments, asked.params).cube
    memos.unmount(name, asked.caller)
    return {"unmounted": name}


def mounts(memos: MemOS, asked: Asked) -> object:
    return {"mounts": [render_cubes.mount(row) for row in memos.mounts(asked.caller)]}


def audit(memos: MemOS, asked: Asked) -> object:
    wanted = parse(AuditArguments, asked.params)
    rows = memos.audit(asked.caller, wanted.since, wanted.limit, wanted.cube)
    return {"entries": [render_cubes.audit_entry(row) for row in rows]}


def verify_audit(memos: MemOS, asked: Asked) -> object:
    return {"problems": list(memos.verify_audit(asked.caller))}


def receipts(memos: MemOS, asked: Asked) -> object:
    return {"receipts": [render.receipt(row) for row in memos.receipts(asked.caller)]}


def receipt(memos: MemOS, asked: Asked) -> object:
    id = parse(ReceiptArguments, asked.params).id
    since = [
        {"id": row.id, "what": row.what, "cube": row.cube, "state": row.state.value, "reason": row.reason}
        | {"told": row.told}
        for row in memos.after_erasing(id, asked.caller)
    ]
    return {"receipt": render.receipt(memos.receipt(id, asked.caller)), "since": since}


METHODS: dict[str, Callable[[MemOS, Asked], object]] = {
    "cube": cube,
    "diff": diff,
    "delete_cube": delete,
    "pack": pack,
    "install": install,
    "publish": publish,
    "shelf": shelf,
    "mount": mount,
    "unmount": unmount,
    "mounts": mounts,
    "audit": audit,
    "verify_audit": verify_audit,
    "receipts": receipts,
    "receipt": receipt,
}
