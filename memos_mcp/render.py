"""From the engine's values to JSON: the one place that decides how a memory, a cube or an instant looks outside.

Names follow the contract; fields are added here, never renamed or dropped. Nothing in this module asks the engine for
anything: what it is given is all that it shows.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from cubes import Governance, Memory
from engine import receipts
from engine.operations import EngineStatus, MemoryView, Receipt, Recollection, Version
from engine.provenance import Traced

SCORE_DIGITS = 3


def when(instant: datetime | None) -> str | None:
    """ISO 8601 in UTC with a `Z`, as short as it is exact."""
    return None if instant is None else instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def brief(found: Recollection) -> dict[str, Any]:
    """A recalled memory: what an assistant needs to use it and to point at it."""
    memory = found.memory
    return {
        "id": memory.id,
        "cube": memory.cube,
        "kind": memory.kind.value,
        "content": memory.content,
        "occurred_at": when(memory.descriptive.occurred_at),
        "created_at": when(memory.descriptive.created_at),
        "score": round(found.score, SCORE_DIGITS),
        "tags": list(memory.descriptive.tags),
        "state": memory.state.value,
        "role": memory.descriptive.role,
        "actor": memory.descriptive.actor,
    }


def detailed(found: Recollection, traced: Traced | None) -> dict[str, Any]:
    """A recalled memory with its header, its lineage, where it comes from and why it was found."""
    memory = found.memory
    return {
        **brief(found),
        "why": list(found.why),
        **header(memory),
        "provenance": None if traced is None else provenance(memory, traced),
    }


def provenance(memory: Memory, traced: Traced) -> dict[str, Any]:
    """Where a memory comes from: what its source said, who stored it, and the bundle or folder that its cube shows."""
    about, bundle = memory.descriptive, traced.bundle
    return {
        "source": about.source,
        "origin": about.origin.value,
        "actor": about.actor,
        "author": traced.author,
        "changed_by": traced.changed_by,
        "bundle": None if bundle is None else {"store": bundle.store, "cube": bundle.cube, "owner": bundle.owner},
        "mounted": traced.mounted,
    }


def header(memory: Memory) -> dict[str, Any]:
    """The three header groups and the lineage."""
    about, rules, use = memory.descriptive, memory.governance, memory.behavioural
    return {
        "version": memory.version,
        "tier": memory.tier.value,
        "descriptive": {
            "updated_at": when(about.updated_at),
            "origin": about.origin.value,
            "source": about.source,
            "actor": about.actor,
            "role": about.role,
            "session": about.session,
            "position": about.position,
            "metadata": None if about.metadata is None else json.loads(about.metadata),
            "entities": list(about.entities),
            "mentions": [
                {"text": mention.text, "start": when(mention.start), "end": when(mention.end)}
                for mention in about.mentions
            ],
        },
        "governance": governance(rules),
        "behavioural": {"access_count": use.access_count, "last_access": when(use.last_access)},
        "lineage": [
            {"relation": edge.relation.value, "source": edge.source, "version": edge.version} for edge in memory.lineage
        ],
    }


def governance(rules: Governance) -> dict[str, Any]:
    """How a memory is to be treated."""
    return {
        "expires_at": when(rules.expires_at),
        "priority": rules.priority,
        "sensitivity": rules.sensitivity.value,
        "pinned": rules.pinned,
        "frozen": rules.frozen,
    }


def whole(memory: Memory) -> dict[str, Any]:
    """A memory with everything that it is."""
    return {
        "id": memory.id,
        "cube": memory.cube,
        "kind": memory.kind.value,
        "content": memory.content,
        "occurred_at": when(memory.descriptive.occurred_at),
        "created_at": when(memory.descriptive.created_at),
        "tags": list(memory.descriptive.tags),
        "state": memory.state.value,
        **header(memory),
    }


def memory_view(view: MemoryView, traced: Traced | None) -> dict[str, Any]:
    """A memory and what stands around it."""
    return {
        **whole(view.memory),
        "provenance": None if traced is None else provenance(view.memory, traced),
        "derived": [{"relation": relation, "id": derived} for relation, derived in view.derived],
        "tiers": [{"tier": held.tier, "artifact": held.artifact, "state": held.state} for held in view.tiers],
        "previous": view.previous,
        "next": view.next,
    }


def version(row: Version) -> dict[str, Any]:
    """One row of a memory's history."""
    return {
        "id": row.id,
        "version": row.version,
        "at": when(row.at),
        "author": row.author,
        "change": row.change,
        "reason": row.reason,
        "state": row.state.value,
        "content": row.content,
    }


def receipt(proof: Receipt) -> dict[str, Any]:
    """The proof of an erasure, as it was signed; it holds no content."""
    return receipts.plain(proof)


def status(engine: EngineStatus) -> dict[str, Any]:
    """How the store is."""
    return {
        "data": engine.data,
        "store_id": engine.store_id,
        "revision": engine.revision,
        "cubes": engine.cubes,
        "counts": dict(engine.counts),
        "embedder": engine.embedder,
        "degraded": engine.degraded,
        "index": dict(engine.index),
        "last_backup": when(engine.last_backup),
        "audit_length": engine.audit_length,
        "encrypted": engine.encrypted,
        "model": engine.model,
        "reader": engine.reader,
        "adapters": dict(engine.adapters),
        "work": list(engine.work),
    }
