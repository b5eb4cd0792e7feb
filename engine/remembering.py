"""remember, from request to durable memory.

    reader (split, classify, time, secrets) → embed ∥ look for rivals → one transaction (duplicates, conflicts,
    memories, lineage, audit row, operation record) → index → events → reply

What can be slow (reading, embedding, searching) happens before the transaction; what must be right (exact duplicates,
whether a rival still stands) is decided inside it. An answer is given when the memories are durable and can be
recalled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from typing import Any

from engine.comparing import prepare, uncompared
from engine.operations import (
    Caller,
    Progress,
    Remember,
    Remembered,
    Status,
    Stored,
)
from engine.parts import Parts, once, seen_in, visible, writable_cube
from engine.reader import Draft, read
from engine.reader.turns import READ_ROLES
from engine.storing import Storing, Vectors
from engine.text.recalled import blocks, escape
from engine.vault import Transaction, queries

EMBED_BATCH = 32  # contents embedded between two steps of progress


Noting = Callable[[Transaction, Sequence[Draft], Sequence[Stored]], str | None]
"""Notes, with what is stored, that something is to be done with it later; the id of that work, if there is any."""


def remember(
    parts: Parts, request: Remember, caller: Caller, progress: Progress, noting: Noting | None = None
) -> Remembered:
    """Store what the request holds.

    Raises:
        Invalid, TooLarge: nothing was stored.
        NotFound, NotAllowed: the cube, or a memory to supersede.
    """
    with parts.vault.reading() as connection:
        writable_cube(Transaction(connection, parts.vault.head, parts.clock.now(), caller), request.cube)
    return store(parts, request, drafts_of(parts, request, caller), caller, progress, noting)


def drafts_of(parts: Parts, request: Remember, caller: Caller) -> tuple[Draft, ...]:
    """What the request holds, read: memories to be.

    Raises:
        Invalid, TooLarge: what is wrong with it.
    """
    return read(request, parts.clock.now(), _recalled(parts, request, caller)).drafts


def store(
    parts: Parts,
    request: Remember,
    drafts: Sequence[Draft],
    caller: Caller,
    progress: Progress,
    noting: Noting | None = None,
) -> Remembered:
    """Store drafts in the request's cube: those of the request itself, or of many texts that came in together."""
    known_until = parts.vault.revision
    # The model runs outside the interpreter's lock: comparing goes on beside it.
    with ThreadPoolExecutor(max_workers=1) as beside:
        comparing = beside.submit(prepare, parts, request.cube, drafts, seen_in(parts, request.cube, caller))
        embedded = list(embedded_of(parts, drafts, progress))
        prepared = comparing.result()

    def job(transaction: Transaction) -> tuple[Remembered, Sequence[str]]:
        result = Storing(parts, request, transaction, prepared, embedded, known_until).run()
        if noting is not None:
            result = replace(result, work=noting(transaction, drafts, result.stored))
        return result, [stored.id for stored in result.stored]

    return _seen_now(parts, once(parts, caller, request, job, _dump, _load), caller)


def _seen_now(parts: Parts, result: Remembered, caller: Caller) -> Remembered:
    """Without rivals that the caller may not see any more: a recorded answer may be older than that."""
    named = [id for item in result.stored for id in (*item.conflicts_with, *item.superseded)]
    if not named or caller.principal.owner or caller.operation is None:
        return result
    with parts.vault.reading() as connection:
        there = visible(connection, named, caller)
    stored = tuple(
        replace(
            item,
            conflicts_with=tuple(id for id in item.conflicts_with if id in there),
            superseded=tuple(id for id in item.superseded if id in there),
        )
        for item in result.stored
    )
    return replace(result, stored=stored)


def is_new_turn(draft: Draft, answer: Stored) -> bool:
    """Whether a reader may draw something from it that it did not before."""
    return draft.role in READ_ROLES and answer.status is not Status.DUPLICATE


def foresee(parts: Parts, request: Remember, drafts: Sequence[Draft], caller: Caller) -> tuple[Stored, ...]:
    """What `store` would answer now; the ids of memories that would be new name nothing."""
    prepared = prepare(parts, request.cube, drafts, seen_in(parts, request.cube, caller))
    with parts.vault.reading() as connection:
        transaction = Transaction(connection, copy(parts.vault.head), parts.clock.now(), caller)
        return Storing(parts, request, transaction, prepared, (), parts.vault.revision).decide()


def known(parts: Parts, request: Remember, drafts: Sequence[Draft], caller: Caller) -> list[bool]:
    """Which of these drafts, none of them a piece, are here word for word already, and would change nothing."""
    with parts.vault.reading() as connection:
        transaction = Transaction(connection, copy(parts.vault.head), parts.clock.now(), caller)
        return Storing(parts, request, transaction, uncompared(parts, drafts), (), parts.vault.revision).known_already()


def _recalled(parts: Parts, request: Remember, caller: Caller) -> Callable[[str, str], bool]:
    """Which blocks in the request are memories of this cube as recall gives them out, word for word."""
    texts = [request.content] if request.content is not None else [turn.content for turn in request.messages]
    ids = list(dict.fromkeys(id for text in texts for id, _ in blocks(text)))
    if not ids:
        return lambda id, content: False
    with parts.vault.reading() as connection:
        records, there = queries.records(connection, ids), visible(connection, ids, caller)
    said = {id: escape(r.memory.content) for id, r in records.items() if r.memory.cube == request.cube and id in there}
    return lambda id, content: said.get(id) == content


def embedded_of(parts: Parts, drafts: Sequence[Draft], progress: Progress) -> Iterator[tuple[str, list[Vectors]]]:
    """Passage vectors of all drafts under each fingerprint; the whole of a long text has none of its own."""
    wholes = {draft.part_of for draft in drafts}
    texts = [None if number in wholes else draft.content for number, draft in enumerate(drafts)]
    collected: dict[str, list[Vectors]] = {}
    for start in range(0, len(texts), EMBED_BATCH):
        progress(start, len(texts), "embedding")
        for fingerprint, vectors in parts.embeddings.contents(texts[start : start + EMBED_BATCH]).items():
            collected.setdefault(fingerprint, []).extend(vectors)
    progress(len(texts), len(texts), "storing")
    # An embedder that failed half-way gives nothing: the background fills in what is missing.
    yield from ((fingerprint, vectors) for fingerprint, vectors in collected.items() if len(vectors) == len(texts))


def _dump(result: Remembered) -> dict[str, Any]:
    return {
        "cube": result.cube,
        "revision": result.revision,
        "stored": [
            [stored.id, stored.version, stored.status.value, list(stored.conflicts_with), list(stored.superseded)]
            for stored in result.stored
        ],
        **({} if result.work is None else {"work": result.work}),
    }


def _load(plain: dict[str, Any]) -> Remembered:
    return Remembered(
        plain["cube"],
        plain["revision"],
        tuple(
            Stored(id, version, Status(status), tuple(conflicts), tuple(superseded))
            for id, version, status, conflicts, superseded in plain["stored"]
        ),
        work=plain.get("work"),
    )
