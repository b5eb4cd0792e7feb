"""What the command line asks for about adapters, moves between tiers and long work.

Synchronous functions from an asked request to a JSON value, as those of `control`, which runs them. The caller is the
owner of the data folder, on this machine; paths are absolute, since the daemon is in no folder of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field

from engine.errors import Unavailable
from engine.operations import MAX_IDS, Caller
from engine.tier_operations import Distil, FuseAdapters, Held, Move, WorkView
from memos_mcp import render_tiers
from memos_mcp.control_cubes import FilePath
from memos_mcp.control_model import OfModel, loaded
from memos_mcp.wire import MAX_ID_CHARS, Arguments, CubeName, MemoryId, Reason, Whole, parse, unique

if TYPE_CHECKING:
    from engine.memos import MemOS

MAX_VERSION = 2**31
MAX_RANK, MAX_STEPS, MAX_SEED = 256, 100_000, 2**31
MAX_FUSED = 16  # adapters at once

Version = Annotated[Whole, Field(ge=0, le=MAX_VERSION)]
Ids = Annotated[list[MemoryId], Field(max_length=MAX_IDS)]


class Asked(Protocol):
    """One request while it runs."""

    params: Mapping[str, Any]
    caller: Caller

    def progress(self, done: float, total: float | None, message: str) -> None: ...

    def item(self, value: object) -> None: ...

    def flush(self) -> None: ...


class MoveArguments(OfModel):
    to: Literal["plaintext", "kv", "lora"]
    ids: Ids | None = None
    cube: CubeName | None = None
    dry_run: bool = False
    background: bool = False
    reason: Reason | None = None


class TrainArguments(OfModel):
    cube: CubeName
    ids: Ids | None = None
    rank: Annotated[Whole, Field(ge=0, le=MAX_RANK)] = 0
    steps: Annotated[Whole, Field(ge=0, le=MAX_STEPS)] = 0
    seed: Annotated[Whole, Field(ge=0, le=MAX_SEED)] = 0
    activate: bool = True
    background: bool = False
    reason: Reason | None = None


class AdaptersArguments(Arguments):
    cube: CubeName | None = None


class OfVersion(OfModel):
    cube: CubeName
    version: Version = 0  # the one that serves


class ActivateArguments(OfModel):
    cube: CubeName
    version: Version | None = None  # None: no version serves
    reason: Reason | None = None


class DropArguments(Arguments):
    cube: CubeName
    version: Annotated[Whole, Field(ge=1, le=MAX_VERSION)] | None = None  # None: all
    reason: Reason | None = None


class ExportArguments(Arguments):
    cube: CubeName
    version: Version = 0
    path: FilePath


class CompareArguments(OfModel):
    cube: CubeName
    a: Version
    b: Version


class ProbeArguments(OfVersion):
    ids: Ids | None = None


class PartArguments(Arguments):
    cube: CubeName
    version: Version = 0


class FuseArguments(OfModel):
    parts: Annotated[list[PartArguments], Field(min_length=2, max_length=MAX_FUSED)]
    into: CubeName
    activate: bool = True
    reason: Reason | None = None


class TextArguments(OfVersion):
    keep: bool = False
    into: CubeName | None = None


class CancelArguments(Arguments):
    id: Annotated[str, Field(max_length=MAX_ID_CHARS)]  # one that is none of any work is not found


# --- moves ----------------------------------------------------------------------------------------------------------


def move(memos: MemOS, asked: Asked) -> object:
    wanted = parse(MoveArguments, asked.params)
    request = Move(
        to=Held(wanted.to),
        ids=unique(wanted.ids or ()),
        cube=wanted.cube,
        dry_run=wanted.dry_run,
        background=wanted.background,
        reason=wanted.reason,
    )
    if request.to is not Held.PLAINTEXT and not request.dry_run:
        memos.move(replace(request, dry_run=True), asked.caller, asked.progress)  # what cannot be is told of before
        _with_the_model(memos, wanted, asked, [])
    return render_tiers.moved(memos.move(request, asked.caller, asked.progress))


def train(memos: MemOS, asked: Asked) -> object:
    """An adapter, or the work that makes one."""
    wanted = parse(TrainArguments, asked.params)
    _with_the_model(memos, wanted, asked, [wanted.cube])
    request = Distil(
        cube=wanted.cube,
        ids=unique(wanted.ids or ()),
        rank=wanted.rank,
        steps=wanted.steps,
        seed=wanted.seed,
        activate=wanted.activate,
        background=wanted.background,
        reason=wanted.reason,
    )
    made = memos.distil(request, asked.caller, asked.progress)
    if isinstance(made, WorkView):
        return {"work": render_tiers.work(made), "adapter": None}
    return {"work": None, "adapter": render_tiers.adapter(made)}


def _with_the_model(memos: MemOS, wanted: OfModel, asked: Asked, cubes: list[str]) -> None:
    """Have the model loaded, while the asker hears of it. A cube that is not there is told of before."""
    for cube in cubes:
        memos.cube(cube, asked.caller)
    info = loaded(memos, wanted, asked)
    if info.remote:
        raise Unavailable(f"{info.source} is a remote server: only a local model has KV caches and adapters")


# --- adapters -------------------------------------------------------------------------------------------------------


def adapters(memos: MemOS, asked: Asked) -> object:
    rows = memos.adapters(parse(AdaptersArguments, asked.params).cube, asked.caller)
    return {"adapters": [render_tiers.adapter(row) for row in rows]}


def activate_adapter(memos: MemOS, asked: Asked) -> object:
    wanted = parse(ActivateArguments, asked.params)
    if wanted.version is not None:
        _with_the_model(memos, wanted, asked, [wanted.cube])
    now = memos.activate_adapter(wanted.cube, wanted.version, asked.caller, wanted.reason, asked.progress)
    return {"cube": wanted.cube, "serving": None if now is None else render_tiers.adapter(now)}


def drop_adapter(memos: MemOS, asked: Asked) -> object:
    wanted = parse(DropArguments, asked.params)
    return {"dropped": memos.drop_adapter(wanted.cube, wanted.version, asked.caller, wanted.reason)}


def export_adapter(memos: MemOS, asked: Asked) -> object:
    wanted = parse(ExportArguments, asked.params)
    return {"path": str(memos.export_adapter(wanted.cube, wanted.version, Path(wanted.path), asked.caller))}


def compare_adapters(memos: MemOS, asked: Asked) -> object:
    wanted = parse(CompareArguments, asked.params)
    _with_the_model(memos, wanted, asked, [wanted.cube])
    rows = memos.compare_adapters(wanted.cube, wanted.a, wanted.b, asked.caller, asked.progress)
    return {"cube": wanted.cube, "probes": [render_tiers.probed(row) for row in rows]}


def probe_adapter(memos: MemOS, asked: Asked) -> object:
    wanted = parse(ProbeArguments, asked.params)
    _with_the_model(memos, wanted, asked, [wanted.cube])
    ids = unique(wanted.ids or ())
    rows = memos.probe_adapter(wanted.cube, wanted.version, ids, asked.caller, asked.progress)
    return {"cube": wanted.cube, "probes": [render_tiers.probed(row) for row in rows]}


def fuse_adapters(memos: MemOS, asked: Asked) -> object:
    wanted = parse(FuseArguments, asked.params)
    _with_the_model(memos, wanted, asked, [part.cube for part in wanted.parts])
    request = FuseAdapters(
        parts=tuple((part.cube, part.version) for part in wanted.parts),
        into=wanted.into,
        activate=wanted.activate,
        reason=wanted.reason,
    )
    return render_tiers.fused(memos.fuse_adapters(request, asked.caller, asked.progress))


def recover_texts(memos: MemOS, asked: Asked) -> object:
    wanted = parse(TextArguments, asked.params)
    _with_the_model(memos, wanted, asked, [wanted.cube])
    rows = memos.recover_texts(
        wanted.cube, wanted.version, asked.caller, asked.progress, keep=wanted.keep, into=wanted.into
    )
    return {"cube": wanted.cube, "texts": [render_tiers.recovered(row) for row in rows]}


# --- work -----------------------------------------------------------------------------------------------------------


def work(memos: MemOS, asked: Asked) -> object:
    return {"work": [render_tiers.work(row) for row in memos.work(asked.caller)]}


def cancel_work(memos: MemOS, asked: Asked) -> object:
    return render_tiers.work(memos.cancel_work(parse(CancelArguments, asked.params).id, asked.caller))


METHODS: dict[str, Callable[[MemOS, Asked], object]] = {
    "move": move,
    "train": train,
    "adapters": adapters,
    "activate_adapter": activate_adapter,
    "drop_adapter": drop_adapter,
    "export_adapter": export_adapter,
    "compare_adapters": compare_adapters,
    "probe_adapter": probe_adapter,
    "fuse_adapters": fuse_adapters,
    "recover_texts": recover_texts,
    "work": work,
    "cancel_work": cancel_work,
}
