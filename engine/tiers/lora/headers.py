"""What the vault says of a version of an adapter: the JSON of its row, and how people see it. Pure; without a tensor.

A version that is gone has an empty header: its view says when it went, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from engine.errors import Corrupt
from engine.model_operations import TierRow
from engine.tier_operations import AdapterState, AdapterView, Judged
from engine.tiers.lora.plain import Told
from engine.vault.adapters import KIND, AdapterRow
from engine.vault.artifacts import ArtifactRow

if TYPE_CHECKING:
    from engine.tiers.lora.store import Made

INSTALLED = "installed"  # how a version was made that came with a file


def header_of(made: Made, blob: str, size: int, now: datetime) -> dict[str, Any]:
    """The JSON of a version that was made here. `blob` is the digest of its `size` bytes."""
    card = made.card
    return {
        "model": card.model,
        "digest": card.digest,
        "blob": blob,
        "bytes": size,
        "rank": int(getattr(made.config, "r", 0)),
        "made": made.made,
        "sources": [[one.id, one.version, one.known] for one in card.sources],
        "judged": None if made.judged is None else judged_json(made.judged),
        "parents": list(made.parents),
        "subjects": list(made.subjects),
        "seed": card.seed,
        "steps": card.steps,
        "seconds": made.seconds,
        "peak_bytes": made.peak_bytes,
        "created_at": now.isoformat(),
        "reason": made.reason,
        "left_out": [list(one) for one in made.left_out],
    }


def installed_header(told: Told, row: ArtifactRow) -> dict[str, Any]:
    """The JSON of a version that came with a file: nothing that it claims to know is believed.

    Raises:
        Corrupt: what it says of itself makes no sense.
    """
    card, rank = told.card, told.config.get("r")
    numbers = (rank, card.get("seed"), card.get("steps"))
    if not isinstance(card.get("digest"), str) or not all(isinstance(one, int) for one in numbers):
        raise Corrupt(f"the adapter {row.id} says nothing of how it was made: leave it out, or pack the cube anew")
    return {
        "model": row.fingerprint,
        "digest": card["digest"],
        "blob": row.digest,
        "bytes": row.bytes,
        "rank": rank,
        "made": INSTALLED,
        "sources": [[id, version, False] for id, version in row.sources],
        "judged": None,
        "parents": [],
        "subjects": [],
        "seed": card["seed"],
        "steps": card["steps"],
        "seconds": 0.0,
        "peak_bytes": 0,
        "created_at": row.created_at.isoformat(),
        "reason": None,
    }


def packed_metadata(made: Made) -> str:
    """What a file says of an adapter beside its blob: how it was made, never what it knows."""
    card, rank = made.card, int(getattr(made.config, "r", 0))
    told = {"made": made.made, "rank": rank, "seed": card.seed, "steps": card.steps}
    return json.dumps(told, sort_keys=True, separators=(",", ":"))


def judged_json(judged: Judged) -> dict[str, Any]:
    return {**asdict(judged), "why": list(judged.why)}


def judged_of(header: Mapping[str, Any]) -> Judged | None:
    told = header.get("judged")
    return None if told is None else Judged(**{**told, "why": tuple(told["why"])})


def source_pairs(row: AdapterRow) -> tuple[tuple[str, int], ...]:
    """The memories that a version was made from, with their versions."""
    return tuple((id, version) for id, version, _ in row.header.get("sources", ()))


def known_pairs(row: AdapterRow) -> tuple[tuple[str, int], ...]:
    """Those that it is proven to know."""
    return tuple((id, version) for id, version, known in row.header.get("sources", ()) if known)


def left_out(row: AdapterRow) -> tuple[tuple[str, int, str], ...]:
    """The memories that were to be taught to a version and were not, with their versions, and why."""
    return tuple((id, version, why) for id, version, why in row.header.get("left_out", ()))


def left_out_words(row: AdapterRow) -> tuple[str, ...]:
    """The same in words, one line for each reason."""
    out, by_why = left_out(row), dict[str, list[str]]()
    for id, _, why in out:
        by_why.setdefault(why, []).append(id)
    taught = len(source_pairs(row))
    return tuple(
        f"{taught} of {taught + len(out)} memories were taught; {len(ids)} left out: {why}: {', '.join(ids)}"
        for why, ids in by_why.items()
    )


def view_of(row: AdapterRow, model: str) -> AdapterView:
    """A version as people see it. `model`: the fingerprint of the model that is loaded; empty: none is."""
    told = row.header
    there = row.state is not AdapterState.GONE
    return AdapterView(
        id=row.artifact,
        cube=row.cube,
        version=row.version,
        state=row.state,
        made=str(told.get("made", "")),
        model=str(told.get("model", "")),
        usable=there and bool(model) and told["model"] == model,
        bytes=int(told.get("bytes", 0)),
        rank=int(told.get("rank", 0)),
        sources=source_pairs(row),
        known=known_pairs(row),
        missed=tuple(id for id, _, known in told.get("sources", ()) if not known) if told.get("judged") else (),
        judged=judged_of(told),
        parents=tuple(told.get("parents", ())),
        steps=int(told.get("steps", 0)),
        seconds=float(told.get("seconds", 0.0)),
        peak_bytes=int(told.get("peak_bytes", 0)),
        created_at=datetime.fromisoformat(told["created_at"]) if there else row.changed_at,
        remarks=left_out_words(row),
        left_out=tuple((id, why) for id, _, why in left_out(row)),
    )


def tier_row(row: AdapterRow, model: str, uses: int) -> TierRow:
    """A version that is there, as a row of the tiers; `divergence` is that which the gate measured."""
    told, judged = row.header, judged_of(row.header)
    return TierRow(
        id=row.artifact,
        cube=row.cube,
        kind=KIND,
        form=f"version {row.version}, {row.state.value}",
        tokens=0,
        bytes=int(told["bytes"]),
        memories=len(told["sources"]),
        model=str(told["model"]),
        usable=bool(model) and told["model"] == model,
        uses=uses,
        divergence=None if judged is None else judged.kl,
        created_at=datetime.fromisoformat(told["created_at"]),
        sources=source_pairs(row),
    )
