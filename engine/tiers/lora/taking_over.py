"""What adapters know goes along when memories live on as copies in another cube.

In the transaction that makes the copies and merges the originals, before what was derived from these goes: each adapter
that served becomes a version of the cube of the copies, with the same weights, made from the copies. One serves at
once; where there are several for one model, it is the one that knows most, and their fusion is asked for as work. A
memory whose copy has other words counts as not known, until a gate finds that it is. It knows no tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from engine.tier_operations import AdapterState
from engine.vault import Transaction
from engine.vault.adapters import KIND, AdapterRow, adapters_of, next_version, put_adapter, set_state
from engine.vault.artifacts import ArtifactRow, put_artifacts
from engine.vault.work import ask_for

FUSE = "fuse"  # the kind of work that makes one adapter of several
MOST = 8  # that are fused
REASON = "their cubes were fused"


@dataclass(frozen=True, slots=True)
class Copy:
    """What a memory lives on as. `alike`: in the same words; `fit`: an adapter may be made from it."""

    id: str
    version: int
    alike: bool = True
    fit: bool = True


def take_over(
    transaction: Transaction, into: str, copies: Mapping[str, Copy], new_id: Callable[[str], str], revision: int
) -> tuple[tuple[int, ...], str | None]:
    """Take over what the serving adapters know about the originals of `copies`; what is its own copy stays itself.

    Gives the versions of `into` that came of it, and the id of the work that makes one adapter of several.
    """
    serving = [row for row in adapters_of(transaction.connection) if row.state is AdapterState.SERVING]
    heirs = [
        _heir(transaction, row, into, copies, new_id("a"))
        for row in serving
        if _is_outdated(row, copies) and all(id in copies and copies[id].fit for id, *_ in row.header["sources"])
    ]
    if not heirs:
        return (), None
    for number, heir in enumerate(heirs):
        heirs[number] = replace(heir, version=next_version(transaction, into))
        put_artifacts(transaction, [_artifact(heirs[number])], revision)
        put_adapter(transaction, heirs[number])
    there = [row for row in serving if row.cube == into and not _is_outdated(row, copies)]
    by_model: dict[str, list[AdapterRow]] = {}
    for row in (*there, *heirs):
        by_model.setdefault(str(row.header["model"]), []).append(row)
    together = sorted(max(by_model.values(), key=lambda rows: sum(map(_known, rows))), key=_known, reverse=True)
    for row in there:
        set_state(transaction, row.artifact, AdapterState.RESTING)
    set_state(transaction, together[0].artifact, AdapterState.SERVING)
    versions = tuple(row.version for row in heirs)
    if len(together) == 1:
        return versions, None
    named = [[into, row.version] for row in together[:MOST]]
    header = {"parts": named, "activate": True, "reason": REASON}
    return versions, ask_for(transaction, new_id("w"), into, FUSE, header).id


def _is_outdated(row: AdapterRow, copies: Mapping[str, Copy]) -> bool:
    """Whether a memory that it was made from is another one by now, in this transaction."""
    return any(id in copies and (copies[id].id, copies[id].version) != (id, v) for id, v, _ in row.header["sources"])


def _heir(transaction: Transaction, row: AdapterRow, into: str, copies: Mapping[str, Copy], id: str) -> AdapterRow:
    """The same weights, made from the copies."""
    sources: dict[str, list[object]] = {}
    for source, _, known in row.header["sources"]:
        copy = copies[source]
        both = bool(known and copy.alike and sources.get(copy.id, (0, 0, True))[2])
        sources[copy.id] = [copy.id, copy.version, both]
    now = transaction.now
    header = {
        **row.header,
        "sources": list(sources.values()),
        "parents": [row.artifact],
        "created_at": now.isoformat(),
        "reason": REASON,
    }
    return replace(
        row,
        artifact=id,
        cube=into,
        state=AdapterState.RESTING,
        header=header,
        changed_at=now,
    )


def _artifact(row: AdapterRow) -> ArtifactRow:
    told = row.header
    sources = tuple((id, version) for id, version, _ in told["sources"])
    return ArtifactRow(
        row.artifact,
        row.cube,
        KIND,
        told["model"],
        told["blob"],
        told["bytes"],
        sources,
        None,
        row.changed_at,
    )


def _known(row: AdapterRow) -> int:
    return sum(bool(known) for *_, known in row.header["sources"])
