"""Adapters of several cubes, or several versions of one, become one adapter that knows what all knew.

The gate chooses among the ways, from combinations of weights to training anew on all the memories, and the reply says
which it was. The parts stay as they are. What must stay true: nothing is kept of a fusion that was stopped, or one of
whose memories changed meanwhile; an adapter that the gate refused does not serve. It imports no torch.

When cubes are fused, what their adapters know is taken over by `engine.tiers.lora.taking_over`, which asks for this
as work in the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cubes import Memory
from engine.answering.answering import Answering
from engine.distilling.askers import plain_principal, principal_of, still_writable
from engine.distilling.effort import Effort
from engine.distilling.opening import Model, notes_of, opened, version_of
from engine.distilling.working import Kind, Task
from engine.embeddings import SYSTEM
from engine.erasing import lasting
from engine.errors import Conflict, Invalid
from engine.operations import MAX_REASON_CHARS, Caller, Progress, silent
from engine.parts import Parts, existing_cube
from engine.reader.checks import check_text
from engine.tier_operations import FuseAdapters, FusedAdapter
from engine.tiers.lora.headers import source_pairs
from engine.tiers.lora.taking_over import FUSE
from engine.vault import queries
from engine.vault.adapters import AdapterRow

if TYPE_CHECKING:
    from engine.distilling.distilling import Distilling

__all__ = ["FUSE", "fuse_adapters", "kind_of_work"]
MIN_PARTS, MAX_PARTS = 2, 8
MOST_MEMORIES = 1_000  # of one adapter


def fuse_adapters(
    parts: Parts,
    answering: Answering,
    distilling: Distilling,
    request: FuseAdapters,
    caller: Caller,
    progress: Progress = silent,
) -> FusedAdapter:
    """Make one adapter for `into` out of several. One that the gate refuses is kept as failed, and the reply says why.

    Raises:
        Invalid: too few or too many parts, or together too many memories.
        NotFound, NotAllowed: a version that is not there for this caller, or a cube that it may not change.
        Conflict: a part is for another model, or a memory changed meanwhile; nothing was kept.
        Unavailable: there is no local model. Busy: another training is under way. Cancelled: nothing was kept.
    """
    _check(request)
    existing_cube(parts, request.into, caller)
    model = opened(answering, caller)
    rows = _rows(parts, model, request, caller)
    header = {
        "parts": [[row.cube, row.version] for row in rows],
        "activate": request.activate,
        "reason": lasting(request.reason, _sources(parts, rows)),
        "principal": plain_principal(caller.principal),
    }
    with distilling.training():
        return distilling.working.now(
            FUSE,
            request.into,
            header,
            caller,
            progress,
            lambda task: _fused(parts, model, task, rows, caller, distilling.effort),
        )


def kind_of_work(parts: Parts, answering: Answering, distilling: Distilling) -> Kind:
    """Fusing in the background: what was cut off, or was asked for when cubes were fused."""

    def run(task: Task) -> str:
        told = task.row.header["parts"]
        request = FuseAdapters(tuple((cube, version) for cube, version in told), task.row.cube)
        asker = SYSTEM
        if "principal" in task.row.header:  # somebody waited for it, and the process ended
            asker = Caller(principal_of(task.row.header["principal"]))
            still_writable(parts, task.row.cube, asker)
        model = opened(answering, SYSTEM)
        rows = _rows(parts, model, request, asker)
        with distilling.training():
            fused = _fused(parts, model, task, rows, SYSTEM, distilling.effort)
        return f"version {fused.adapter.version} is {fused.adapter.state.value}, made by {fused.how}"

    return Kind(run, answering.untrainable)


def _check(request: FuseAdapters) -> None:
    named = dict.fromkeys(request.parts)
    if not MIN_PARTS <= len(named) <= MAX_PARTS:
        raise Invalid(f"give {MIN_PARTS} to {MAX_PARTS} different adapters to fuse; these are {len(named)}")
    if request.reason is not None:
        check_text(request.reason, "reason", MAX_REASON_CHARS)


def _rows(parts: Parts, model: Model, request: FuseAdapters, caller: Caller) -> list[AdapterRow]:
    """The versions to fuse, each once."""
    rows = {
        row.artifact: row
        for row in (version_of(parts, model.adapters, cube, version, caller) for cube, version in request.parts)
    }
    if len(rows) < MIN_PARTS:
        raise Invalid("these are the same adapter: name another version, or that of another cube")
    fingerprints = {str(row.header["model"]) for row in rows.values()}
    if len(fingerprints) > 1:
        raise Conflict("these adapters were made for different models: train those of one anew with the other's model")
    memories = {id for row in rows.values() for id, _ in source_pairs(row)}
    if len(memories) > MOST_MEMORIES:
        raise Invalid(f"together they are made from {len(memories)} memories: at most {MOST_MEMORIES} fit into one")
    return list(rows.values())


def _sources(parts: Parts, rows: Sequence[AdapterRow]) -> list[Memory]:
    with parts.vault.reading() as connection:
        records = queries.records(connection, [id for row in rows for id, _ in source_pairs(row)])
    return [record.memory for record in records.values()]


def _fused(
    parts: Parts, model: Model, task: Task, rows: Sequence[AdapterRow], caller: Caller, effort: Effort
) -> FusedAdapter:
    from engine.distilling.probes import joined
    from engine.distilling.training import Limits
    from engine.tiers.lora.store import Made

    settings, header = parts.vault.settings, task.row.header
    notes = notes_of(parts, [pair for row in rows for pair in source_pairs(row)])
    limits = Limits(settings.lora_minutes, settings.lora_bytes, settings.data)
    name = f"fusing-{task.row.id}"
    made = model.do(lambda loaded: joined(loaded, model.adapters, name, rows, notes, limits, effort), task.tell)
    tried = tuple((one.how, one.verdict.learned, one.verdict.passed) for one in made.fused.tried)
    kept = model.adapters.keep(
        Made(
            cube=task.row.cube,
            config=made.config,
            tensors=made.tensors,
            card=made.card,
            judged=made.fused.verdict.judged,
            caller=caller,
            made=made.fused.how,
            action="fuse_adapters",
            parents=tuple(row.artifact for row in rows),
            seconds=made.seconds,
            peak_bytes=made.peak_bytes,
            subjects=made.subjects,
            activate=bool(header.get("activate", True)),
            reason=header.get("reason"),
        ),
        lambda transaction, row: task.settle(transaction, _words(row)),
    )
    if kept is None:
        raise Conflict("a memory changed, or was forgotten, while adapters were fused: nothing was kept; fuse again")
    return FusedAdapter(model.view(kept), made.fused.how, tried)


def _words(row: AdapterRow) -> str:
    """What became of it."""
    sources = row.header["sources"]
    known = sum(bool(one[2]) for one in sources)
    why = "".join(f"; {one}" for one in row.header["judged"]["why"])
    made, state = row.header["made"], row.state.value
    return f"version {row.version}, {made}, is {state}: it knows {known} of {len(sources)} memories{why}"
