"""Memories as notes of a prompt."""

from __future__ import annotations

from cubes import Memory
from engine.model.prompts import Note


def note_of(memory: Memory, score: float = 1.0) -> Note:
    """A memory as a note: it stands where it happened, or was kept."""
    told = memory.descriptive.occurred_at or memory.descriptive.created_at
    return Note(memory.id, memory.version, memory.content, score, told.isoformat())
