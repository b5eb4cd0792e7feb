"""From the engine's values about adapters, moves between tiers and long work to JSON.

As `render_model`, which has the local model and KV caches: names are those of the contract, and nothing is asked of the
engine.
"""

from __future__ import annotations

from typing import Any

from engine.tier_operations import AdapterView, FusedAdapter, Judged, Moved, Probed, Recovered, WorkView
from memos_mcp.render import when

SHARE_DIGITS = 4


def adapter(view: AdapterView) -> dict[str, Any]:
    """One version of a cube's adapter."""
    return {
        "id": view.id,
        "cube": view.cube,
        "version": view.version,
        "state": view.state.value,
        "made": view.made,
        "model": view.model,
        "usable": view.usable,
        "bytes": view.bytes,
        "rank": view.rank,
        "sources": _versions(view.sources),
        "known": _versions(view.known),
        "missed": list(view.missed),
        "judged": None if view.judged is None else judged(view.judged),
        "parents": list(view.parents),
        "steps": view.steps,
        "seconds": round(view.seconds, 1),
        "peak_bytes": view.peak_bytes,
        "created_at": when(view.created_at),
        "remarks": list(view.remarks),
        "left_out": [{"id": id, "why": why} for id, why in view.left_out],
    }


def _versions(pairs: tuple[tuple[str, int], ...]) -> list[dict[str, Any]]:
    return [{"id": id, "version": version} for id, version in pairs]


def judged(found: Judged) -> dict[str, Any]:
    """What the gate found, as shares from 0 to 1."""
    names = ("learned", "right", "right_before", "unknown", "scenes", "scenes_before", "conflicts", "kept", "kl")
    return {**{name: round(getattr(found, name), SHARE_DIGITS) for name in names}, "why": list(found.why)}


def probed(answer: Probed) -> dict[str, Any]:
    """One probe with the answers of two versions."""
    return {
        "memory": answer.memory,
        "question": answer.question,
        "before": answer.before,
        "after": answer.after,
        "right_before": answer.right_before,
        "right_after": answer.right_after,
    }


def fused(made: FusedAdapter) -> dict[str, Any]:
    """An adapter that was made of several, and what was tried on the way."""
    return {
        "adapter": adapter(made.adapter),
        "how": made.how,
        "tried": [
            {"how": how, "learned": round(learned, SHARE_DIGITS), "passed": passed}
            for how, learned, passed in made.tried
        ],
    }


def recovered(found: Recovered) -> dict[str, Any]:
    """What an adapter asserts."""
    return {
        "text": found.text,
        "confidence": round(found.confidence, SHARE_DIGITS),
        "source": found.source,
        "agrees": found.agrees,
        "id": found.id,
    }


def work(row: WorkView) -> dict[str, Any]:
    """Long work: what waits, what runs, what became of it."""
    return {
        "id": row.id,
        "cube": row.cube,
        "what": row.what,
        "state": row.state.value,
        "reason": row.reason,
        "asked_at": when(row.asked_at),
        "began_at": when(row.began_at),
        "ended_at": when(row.ended_at),
        "attempts": row.attempts,
        "done": row.done,
        "total": row.total,
        "message": row.message,
        "told": row.told,
    }


def moved(done: Moved) -> dict[str, Any]:
    """What a move did, or would do."""
    return {
        "to": done.to.value,
        "moved": list(done.moved),
        "skipped": [{"id": id, "why": why} for id, why in done.skipped],
        "adapter": None if done.adapter is None else adapter(done.adapter),
        "artifacts": done.artifacts,
        "work": done.work,
        "remarks": list(done.remarks),
    }
