"""A reply from a remote OpenAI-compatible server: memory goes along as text, and that is said."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from engine.answering.gathering import Gathered, Gathering
from engine.answering.notes import note_of
from engine.model.prompts import Note
from engine.model.remote import RemoteModel, with_memory
from engine.model_operations import (
    Chat,
    ChatEvent,
    Finished,
    Form,
    MemoryReport,
    Recalling,
    Said,
    Tier,
    Used,
)
from engine.operations import RECALL_TOKENS, Caller

TEXT_ONLY = "the model runs on a remote server: memory reaches it as text only"


def remote_reply(
    model: RemoteModel, gathering: Gathering, request: Chat, caller: Caller, started: float
) -> Iterator[ChatEvent]:
    """The events of one reply."""
    gathered = gathering.gather(request, caller, RECALL_TOKENS, private=not model.on_this_machine)
    remarks = gathered.remarks
    if request.memory is not None and set(request.memory.tiers) - {Tier.TEXT}:
        remarks = (*remarks, TEXT_ONLY)
    report = MemoryReport(used=used_as_text(gathered), remarks=remarks)
    yield Recalling(report)
    pinned, recalled = notes(gathered)
    said, first_ms = list[str](), 0.0
    with model.stream(with_memory(request.turns, pinned, recalled), request.sampling) as reply:
        for text in reply:
            if not said:
                first_ms = 1e3 * (time.perf_counter() - started)
            said.append(text)
            yield Said(text)
        report = replace(report, ttft_ms=first_ms, prompt_tokens=reply.prompt_tokens, reused_tokens=reply.reused_tokens)
        yield Finished("".join(said), reply.reason, reply.completion_tokens, report, model.info)


def notes(gathered: Gathered) -> tuple[list[Note], list[Note]]:
    """The pinned and the recalled memories as notes."""
    return [note_of(memory) for memory in gathered.pinned], [note_of(*item) for item in gathered.recalled]


def used_as_text(gathered: Gathered) -> tuple[Used, ...]:
    """The memories, all in the form of text."""
    return tuple(
        Used(memory.id, memory.version, memory.cube, Form.TEXT, memory.content, pinned)
        for pinned, memories in ((True, gathered.pinned), (False, [memory for memory, _ in gathered.recalled]))
        for memory in memories
    )
