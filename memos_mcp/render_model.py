"""From the engine's values about the local model and the KV tier to JSON: events of a reply, reports, rows, models.

As `render`, which has memories: names are those of the contract, and nothing is asked of the engine.
"""

from __future__ import annotations

from typing import Any

from engine.model_operations import (
    ChatEvent,
    MemoryReport,
    ModelInfo,
    Recalling,
    Said,
    TierBuilt,
    TierRow,
    Used,
    shown_source,
)
from memos_mcp.render import when

MS_DIGITS = 1


def model(info: ModelInfo, *, owner: bool) -> dict[str, Any]:
    """A model, as it is shown to the owner of the store, or to others."""
    return {
        "source": shown_source(info.source, owner=owner),
        "family": info.family,
        "fingerprint": info.fingerprint,
        "device": info.device,
        "dtype": info.dtype,
        "parameters": info.parameters,
        "context_tokens": info.context_tokens,
        "kv_bytes_per_token": info.kv_bytes_per_token,
        "kv_refusal": info.kv_refusal,
        "remote": info.remote,
    }


def used(memory: Used) -> dict[str, Any]:
    """A memory that the model was given, and in which form."""
    return {
        "id": memory.id,
        "version": memory.version,
        "cube": memory.cube,
        "form": memory.form.value,
        "content": memory.content,
        "pinned": memory.pinned,
    }


def report(made: MemoryReport) -> dict[str, Any]:
    """What a reply was made from, and what that cost."""
    return {
        "used": [used(memory) for memory in made.used],
        "tier": made.tier,
        "ttft_ms": round(made.ttft_ms, MS_DIGITS),
        "prompt_tokens": made.prompt_tokens,
        "reused_tokens": made.reused_tokens,
        "recomputed_tokens": made.recomputed_tokens,
        "saved_tokens": made.saved_tokens,
        "adapter": made.adapter,
        "left_out_turns": made.left_out_turns,
        "left_out_memories": made.left_out_memories,
        "remarks": list(made.remarks),
    }


def event(happened: ChatEvent, *, owner: bool) -> dict[str, Any]:
    """One event of a reply; `event` says which. `owner`: whether it is for the owner of the store."""
    if isinstance(happened, Said):
        return {"event": "said", "text": happened.text}
    if isinstance(happened, Recalling):
        return {"event": "recalling", **report(happened.report)}
    return {
        "event": "finished",
        "text": happened.text,
        "reason": happened.reason,
        "completion_tokens": happened.completion_tokens,
        **report(happened.report),
        "model": shown_source(happened.model.source, owner=owner),
    }


def tier_row(row: TierRow) -> dict[str, Any]:
    """One KV cache that is kept."""
    return {
        "id": row.id,
        "cube": row.cube,
        "kind": row.kind,
        "form": row.form,
        "tokens": row.tokens,
        "bytes": row.bytes,
        "memories": row.memories,
        "model": row.model,
        "usable": row.usable,
        "uses": row.uses,
        "divergence": row.divergence,
        "created_at": when(row.created_at),
        "sources": [{"id": id, "version": version} for id, version in row.sources],
    }


def tier_built(built: TierBuilt) -> dict[str, Any]:
    """What building did."""
    return {
        "cube": built.cube,
        "prefix_tokens": built.prefix_tokens,
        "chunks": built.chunks,
        "bytes": built.bytes,
        "skipped": [{"id": id, "why": why} for id, why in built.skipped],
    }
