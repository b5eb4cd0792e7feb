"""From weights to text: what a version of an adapter asserts beyond its base, as memories that can be edited.

    sweep over what its memories are about → assertions with a confidence → compared with these memories → kept, or told

What is kept is an ordinary memory of origin `parametric`, which names the version it came from and the confidence in
its metadata. Where a memory that the adapter was made from says the same, it is derived from that one, so that both are
erased together. What says otherwise than its source, or speaks of what no source speaks of, has no such lineage:
erasing a wrong text must not take a right one with it. It imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cubes import Governance, Kind, Memory, Origin
from cubes.canonical import canonical_bytes
from engine import remembering
from engine.answering.answering import Answering
from engine.distilling.opening import notes_of, opened, version_of
from engine.errors import Invalid
from engine.operations import Caller, Progress, Remember, silent
from engine.parts import Parts, existing_cube
from engine.reader import Draft
from engine.text.origins import ADAPTER
from engine.tier_operations import Recovered
from engine.tiers.lora.headers import source_pairs
from engine.vault import queries
from engine.vault.adapters import AdapterRow

if TYPE_CHECKING:
    from engine.distilling.probes import Found

ASKING = 0.9  # of the whole is asking the model, the rest storing


def recover_texts(
    parts: Parts,
    answering: Answering,
    cube: str,
    version: int,
    caller: Caller,
    progress: Progress = silent,
    *,
    keep: bool = False,
    into: str | None = None,
) -> tuple[Recovered, ...]:
    """What a version (0: the one that serves) asserts, the surest first; with `keep` as memories of `into`.

    `into` is the adapter's own cube unless it is named. What that cube holds already is not stored again: its id is
    told.

    Raises:
        NotFound: there is no such cube (`into` is not made) or version for this caller. NotAllowed: `into` may not be
            changed.
        Conflict: the version cannot be used by the model that is loaded. Unavailable: there is no local model.
    """
    target = into or cube
    if into is not None and not keep:
        raise Invalid(f"cube {into!r} was named for texts that are not to be kept: ask to keep them, or leave it out")
    if keep:
        existing_cube(parts, target, caller)
    model = opened(answering, caller)
    row = version_of(parts, model.adapters, cube, version, caller)
    notes = notes_of(parts, source_pairs(row))
    from engine.distilling.probes import asserted

    share = ASKING if keep else 1.0
    found = model.do(
        lambda loaded: asserted(loaded, model.adapters, row, notes),
        lambda done, total, message: progress(share * done, total, message),
    )
    told = [_told(one) for one in found]
    if keep and told:
        ids = _kept(parts, row, target, found, caller, progress)
        told = [replace(one, id=id) for one, id in zip(told, ids, strict=True)]
    progress(1.0, 1.0, "asked")
    return tuple(told)


def _told(found: Found) -> Recovered:
    source = found.source.id if found.source is not None else None
    return Recovered(found.said.text, found.said.confidence, source, found.agrees)


def _kept(
    parts: Parts, row: AdapterRow, into: str, found: Sequence[Found], caller: Caller, progress: Progress
) -> list[str]:
    """Store what was asserted, in one transaction; the id of each."""
    with parts.vault.reading() as connection:
        records = queries.records(connection, [id for id, _ in source_pairs(row)])
    sources = {id: record.memory for id, record in records.items()}
    drafts = [_draft(parts, row, into, one, sources, caller) for one in found]
    request = Remember(content="\n".join(draft.content for draft in drafts), cube=into)

    def tell(done: float, total: float | None, message: str) -> None:
        progress(ASKING + (1 - ASKING) * (done / total if total else 0.0), 1.0, message)

    return [stored.id for stored in remembering.store(parts, request, drafts, caller, tell).stored]


def _draft(
    parts: Parts, row: AdapterRow, into: str, found: Found, sources: Mapping[str, Memory], caller: Caller
) -> Draft:
    """An assertion as a memory to be: read as any other text, for its time and its names.

    It lasts no longer than what it was learned from.
    """
    text = found.said.text
    read = remembering.drafts_of(parts, Remember(content=text, cube=into, kind=Kind.FACT), caller)
    about = {
        "id": row.artifact,
        "cube": row.cube,
        "version": row.version,
        "confidence": round(found.said.confidence, 3),
        "agrees": found.agrees,
    }
    source = sources.get(found.source.id) if found.source is not None and found.agrees else None
    learned_from = sources.values() if source is None else (source,)
    ends = [one.governance.expires_at for one in learned_from if one.governance.expires_at is not None]
    return replace(
        read[0] if len(read) == 1 else Draft(text, Kind.FACT),
        origin=Origin.PARAMETRIC,
        metadata=canonical_bytes({ADAPTER: about}).decode(),
        governance=Governance(expires_at=min(ends, default=None)),
        drawn_from=() if source is None else ((source.descriptive.id, source.version),),
    )
