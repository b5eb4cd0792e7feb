"""After an erasure: KV that was read beside what went is built again without it.

Nothing waits for it, and no model is loaded for it: replies are as right without, only slower at their beginning.
"""

from __future__ import annotations

from engine.answering.answering import Answering
from engine.distilling.working import Kind, Task
from engine.embeddings import SYSTEM
from engine.errors import NotFound
from engine.parts import Parts

NOTHING_LEFT = "nothing is left of it to build"


def rebuilding(parts: Parts, answering: Answering) -> Kind:
    """How such work is done: once the model is loaded anyway."""

    def run(task: Task) -> str:
        there = {row[0] for row in parts.vault.rows("SELECT id FROM memories WHERE cube = ?", [task.row.cube])}
        ids = there.intersection(task.row.header["ids"])
        if not ids:
            return NOTHING_LEFT
        try:
            built = answering.build_tier(task.row.cube, SYSTEM, task.tell, ids)
        except NotFound:
            return NOTHING_LEFT
        return f"a prefix of {built.prefix_tokens} tokens and the KV caches of {built.chunks} memories were built anew"

    def waits() -> str | None:
        local = answering.at_hand
        return None if local is not None and local.loaded else "for the model to be loaded by a chat"

    return Kind(run, waits)
