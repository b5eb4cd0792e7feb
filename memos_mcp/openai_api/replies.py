"""From the engine's values to the JSON of OpenAI's replies: completions, chunks of a stream, models, embeddings.

Names are OpenAI's, and `memory` is ours: what a reply was made from, and what that cost. Nothing is asked here.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.model_operations import Finished, MemoryReport, ModelInfo
from engine.recall.budget import CHARS_PER_TOKEN
from memos_mcp.wire import encodable

OWNED_BY = "memos-mcp"
FINGERPRINT_CHARS = 12
MS_DIGITS = 1
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Head:
    """What every object of one reply begins with."""

    id: str
    created: int
    model: str  # as the client named it, unless that is a folder's whole path and not the owner's
    fingerprint: str | None = None

    def object(self, kind: str, **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            **more,
        }


def fingerprint_of(info: ModelInfo | None) -> str | None:
    """The model's own fingerprint, as short as OpenAI's are."""
    if info is None or not info.fingerprint:
        return None
    return "fp_" + hashlib.sha256(info.fingerprint.encode()).hexdigest()[:FINGERPRINT_CHARS]


def usage(finished: Finished) -> dict[str, Any]:
    """Tokens, with those whose KV was not computed anew as cached."""
    prompt, completion = finished.report.prompt_tokens, finished.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": finished.report.reused_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def memory(report: MemoryReport) -> dict[str, Any]:
    """What a reply was made from: which memories, in which form, and what was left out."""
    return {
        "used": [used.id for used in report.used],
        "tier": report.tier,
        "ttft_ms": round(report.ttft_ms, MS_DIGITS),
        "prompt_tokens": report.prompt_tokens,
        "reused_tokens": report.reused_tokens,
        "recomputed_tokens": report.recomputed_tokens,
        "saved_tokens": report.saved_tokens,
        "adapter": report.adapter,
        "left_out_turns": report.left_out_turns,
        "left_out_memories": report.left_out_memories,
        "forms": {used.id: used.form.value for used in report.used},
        "remarks": list(report.remarks),
    }


def completion(head: Head, finished: Finished) -> dict[str, Any]:
    """A reply in whole."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": encodable(finished.text),
        "refusal": None,
        "annotations": [],
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finished.reason}
    return head.object("chat.completion", choices=[choice], usage=usage(finished), memory=memory(finished.report))


class Chunks:
    """The chunks of one streamed reply, as server-sent events."""

    def __init__(self, head: Head, *, include_usage: bool) -> None:
        self._head, self._include_usage = head, include_usage

    def first(self) -> bytes:
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def said(self, text: str) -> bytes:
        return self._chunk({"content": encodable(text)})

    def last(self, finished: Finished) -> Iterator[bytes]:
        """Why it ended; the usage, if it was asked for; the end. The last of these objects has `memory`."""
        told = {"memory": memory(finished.report)}
        if self._include_usage:
            yield self._chunk({}, finished.reason)
            yield event(self._head.object("chat.completion.chunk", choices=[], usage=usage(finished), **told))
        else:
            yield self._chunk({}, finished.reason, **told)
        yield DONE

    def _chunk(self, delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        without = {"usage": None} if self._include_usage else {}
        return event(self._head.object("chat.completion.chunk", choices=[choice], **without, **more))


def event(content: object) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def model(id: str, created: int) -> dict[str, Any]:
    return {"id": id, "object": "model", "created": created, "owned_by": OWNED_BY}


def listed(models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": list(models)}


def embeddings(
    vectors: Sequence[Sequence[float]], texts: Sequence[str], name: str, *, as_base64: bool
) -> dict[str, Any]:
    """The vectors, in order. Tokens are estimated: the embedder counts none."""
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    tokens = sum(-(-len(text) // CHARS_PER_TOKEN) for text in texts)
    return {**listed(data), "model": name, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _base64(vector: Sequence[float]) -> str:
    """Float32, little-endian, as OpenAI's clients read it."""
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()
