"""forget: archive, which can be undone, and erase, which cannot.

Erase removes a memory from the tables, from history, indexes and their snapshots, from recorded answers and automatic
backups, and then gives the database a new file, because DuckDB keeps deleted bytes in free blocks and in its
write-ahead log. Bundles that hold it are taken off the shelves on this machine. Only then is the receipt signed, and
does the call return. What is erased with a memory is what holds its content:

- the pieces of a long text with the whole; erasing one piece blanks its words in the whole;
- a fused memory with its parents, since it is made of them; erasing one parent erases the fused memory and brings the
  other parents back;
- what a model drew out of a memory (facts of turns) with that memory, and the memories that say it with what was drawn.

If the process dies after the transaction and before the new file is in place, the next start finishes the work: an
erasure that was committed is never left half done.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from cubes import Action, Relation
from engine import receipts
from engine.embeddings import SYSTEM
from engine.erasing import PENDING, Erasure, Unlearned, lasting, out_of_reach
from engine.errors import Cancelled, Conflict, Expired, Invalid, MemosError, NotAllowed, NotFound
from engine.governance.access import no_memory
from engine.lifecycle.states import Step, after, state_after
from engine.operations import (
    CONFIRM_MINUTES,
    MAX_REASON_CHARS,
    Caller,
    Forget,
    ForgetResult,
    Forgotten,
    Invalidated,
    Mode,
    Preview,
    Progress,
    Recall,
    Receipt,
    Recollection,
)
from engine.parts import Parts, check_ids, may, once
from engine.reader.checks import check_text
from engine.recalling import Recalling
from engine.text.words import stems
from engine.vault import Transaction, backup_names, queries
from engine.vault.artifacts import drop_derived
from engine.vault.backup import AUTOMATIC, backup_path
from engine.vault.rows import Record, known_time, stored_time

SURE = 0.5  # from this score on a memory counts as what the query means
PREVIEW_LIMIT = 20  # memories that one query may preview
TakeOff = Callable[[Parts, Sequence[receipts.Draft]], Mapping[str, receipts.Reached]]  # by the id of each receipt
log = logging.getLogger(__name__)


class Forgetting:
    """forget, and the clean-up that erasures share."""

    def __init__(self, parts: Parts, recalling: Recalling, take_off: TakeOff, unlearned: Unlearned) -> None:
        self._parts = parts
        self._recalling = recalling
        self._take_off = take_off
        self._unlearned = unlearned
        self._resumed: list[str] = []  # receipts of erasures that another process began
        self._cleaning = threading.Lock()
        self._wanted = 0
        self._cleaned = 0
        self._count = threading.Lock()

    def forget(self, request: Forget, caller: Caller, progress: Progress) -> ForgetResult:
        """Do, preview or confirm.

        Raises:
            Invalid: not exactly one of ids, query, confirm.
            NotFound, NotAllowed, Frozen, Conflict: nothing was changed.
            Expired: the confirm token is unknown or too old.
        """
        _check(request)
        ids = check_ids(request.ids)
        if request.query is not None:
            return self._preview_query(request, caller)
        if request.mode is Mode.ERASE and request.confirm is None and not request.confirmed:
            return self._preview_ids(ids, request, caller)

        def job(transaction: Transaction) -> tuple[ForgetResult, Sequence[str]]:
            wanted, mode = ids, request.mode
            if request.confirm is not None:
                wanted, mode = _confirmed(transaction, request.confirm)
            records, missing = _readable(transaction, wanted)
            if mode is Mode.ARCHIVE:
                return _invalidating(transaction, _archive(transaction, records, missing, request.reason)), wanted
            erased = Erasure(self._parts, transaction, records, missing, request.reason, self._unlearned).run()
            return _invalidating(transaction, erased), ()

        progress(0, None, "forgetting")
        result = once(self._parts, caller, request, job, dump, load)
        if result.receipt is not None:
            with contextlib.suppress(Cancelled):  # it is erased: there is nothing left to stop
                progress(1, 2, "removing every copy")
            self.clean()
        return self.with_receipt(result, caller)

    def with_receipt(self, result: ForgetResult, caller: Caller) -> ForgetResult:
        """The result of an erasure with the receipt as it is by now: signed, once every copy was removed."""
        if result.receipt is None:
            return result
        found = receipts.fetch(self._parts, result.receipt.id, caller)
        return replace(result, receipt=found) if found.finished_at is not None else result

    # --- previews ----------------------------------------------------------------------------------------------

    def _preview_query(self, request: Forget, caller: Caller) -> ForgetResult:
        assert request.query is not None
        search = Recall(
            query=request.query,
            cubes=None if request.cube is None else (request.cube,),
            limit=PREVIEW_LIMIT,
            max_tokens=100_000,
        )
        found = self._recalling.recall(search, caller, use=False)
        if found.nothing_relevant:
            return ForgetResult()
        matching = [item.memory.id for item in found.memories if _matches(request.query, item)]
        return self._propose(matching, (), request.mode, caller)

    def _preview_ids(self, ids: Sequence[str], request: Forget, caller: Caller) -> ForgetResult:
        with self._parts.vault.reading() as connection:
            transaction = Transaction(connection, self._parts.vault.head, self._parts.clock.now(), caller)
            records, missing = _readable(transaction, ids)
            for record in records:
                after(record.memory, Step.ERASE)
        return self._propose([record.memory.id for record in records], missing, request.mode, caller)

    def _propose(self, ids: Sequence[str], missing: Sequence[str], mode: Mode, caller: Caller) -> ForgetResult:
        if not ids:
            return ForgetResult(not_found=tuple(missing))
        token = f"c_{secrets.token_urlsafe(18)}"

        def job(transaction: Transaction) -> tuple[Preview, ...]:
            records = [record for record in transaction.records(ids).values() if _writable(transaction, record)]
            if mode is Mode.ERASE:
                erasure = Erasure(self._parts, transaction, records, (), None)
                erasure.collect()
                erasure.check_rights()
                records = list(erasure.gone.values())  # nothing is erased that was not shown
            items = json.dumps([[record.memory.id, record.memory.version] for record in records])
            expires = transaction.now + timedelta(minutes=CONFIRM_MINUTES)
            values = (token, transaction.caller.principal.name, mode.value, items, stored_time(expires))
            transaction.execute("DELETE FROM confirmations WHERE expires_at < ?", [stored_time(transaction.now)])
            transaction.insert("confirmations", ("token", "principal", "mode", "items", "expires_at"), [values])
            return tuple(Preview(record.memory.id, record.memory.content) for record in records)

        preview = self._parts.vault.write(job, caller)
        return ForgetResult(not_found=tuple(missing), preview=preview, confirm=token if preview else None)

    # --- what an erasure leaves to be done ---------------------------------------------------------------------

    def clean(self) -> None:
        """Remove what was erased from every file. Calls that wait at the same time share one pass."""
        with self._count:
            self._wanted += 1
            mine = self._wanted
        with self._cleaning:
            if self._cleaned >= mine:
                return
            reached = self._wanted
            self._clean()
            self._cleaned = reached

    def finish(self, *, at_start: bool = False) -> None:
        """Finish an erasure that was committed by a process that then died, or that could not remove every copy.

        Where that fails (a full disk), the store stays usable and the erasure stays noted, to be finished later.
        """
        noted = self._parts.vault.note(PENDING)
        if noted is None:
            return
        try:
            self.clean()
        except (MemosError, OSError) as error:
            log.error("copies of what was erased are still there, and are tried again: %s", type(error).__name__)
        else:
            if at_start:
                self._resumed += json.loads(noted).get("receipts", ())

    def told(self, caller: Caller) -> tuple[str, ...]:
        """What erasures still have to do, and which were finished for a process that was cut off, for the owner."""
        if not caller.principal.owner:
            return ()
        noted = self._parts.vault.note(PENDING)
        waiting = [] if noted is None else json.loads(noted).get("receipts", [])
        return (
            *(f"copies of what was erased are still being removed (receipt {id})" for id in waiting),
            *(f"an erasure was cut off when the process ended, and is finished (receipt {id})" for id in self._resumed),
        )

    def _clean(self) -> None:
        parts = self._parts
        self._recalling.forget_past()
        noted = parts.vault.note(PENDING)
        if noted is None:
            return
        pending = json.loads(noted)
        for cube in pending["cubes"]:
            parts.indexes.save_cube(cube)
        parts.vault.compact()
        backups = self._replace_backups()
        drafts = receipts.drafts(parts, pending.get("receipts", ()))
        told = self._told(drafts, backups)

        # Only now, and only if no erasure was committed meanwhile: a pass that dies is done again at the next start.
        def job(transaction: Transaction) -> None:
            for draft in drafts:
                receipts.keep(transaction, draft, told[draft.receipt.id])
            transaction.execute("DELETE FROM meta WHERE key = ? AND value = ?", [PENDING, noted])

        parts.vault.write(job, SYSTEM)

    def _replace_backups(self) -> int:
        """Make one new automatic backup in place of all that there are; how many these were."""
        parts = self._parts
        old = backup_names(parts.vault.settings)
        if old:
            parts.vault.backup(backup_path(parts.vault.settings, parts.clock.now(), AUTOMATIC))
            for path in old:
                path.unlink(missing_ok=True)
        return len(old)

    def _told(self, drafts: Sequence[receipts.Draft], backups: int) -> dict[str, Mapping[str, Any]]:
        """What is to be noted of each erasure, by the id of its receipt."""
        parts = self._parts
        reached = self._take_off(parts, drafts)
        told = {}
        for draft in drafts:
            elsewhere = reached[draft.receipt.id]
            rewritten = ["the database", *(f"the index of {cube}" for cube in draft.cubes)]
            rewritten += [f"{backups} automatic backup{'s' * (backups > 1)}"] if backups else []
            copies = replace(
                elsewhere,
                rewritten=tuple(rewritten),
                out_of_reach=(
                    *out_of_reach(parts, draft.cubes, draft.receipt.erased),
                    *elsewhere.out_of_reach,
                ),
            )
            told[draft.receipt.id] = receipts.finished(parts, draft, copies, parts.clock.now())
        return told


def _invalidating(transaction: Transaction, result: ForgetResult) -> ForgetResult:
    """Drop what was derived from what is forgotten, and count it."""
    dropped = drop_derived(transaction)
    return replace(result, invalidated=Invalidated(kv=dropped.get("kv", 0), lora=dropped.get("lora", 0)))


def _check(request: Forget) -> None:
    given = [bool(request.ids), request.query is not None, request.confirm is not None]
    if sum(given) != 1:
        raise Invalid("give exactly one of ids, query and confirm")
    if request.query is not None and not request.query.strip():
        raise Invalid("the query is empty: say in a few words what to forget")
    if request.reason is not None:
        check_text(request.reason, "reason", MAX_REASON_CHARS)


def _matches(query: str, found: Recollection) -> bool:
    """Whether a memory is meant by a query to forget: it holds all its words, or answers it beyond doubt."""
    return set(stems(query)).issubset(stems(found.memory.content)) or found.score >= SURE


def _readable(transaction: Transaction, ids: Sequence[str]) -> tuple[list[Record], tuple[str, ...]]:
    """Records that the caller may change, and the ids that do not exist for it."""
    found = transaction.records(ids)
    records, missing = [], []
    for id in ids:
        try:
            if id not in found:
                raise NotFound(no_memory(id))
            may(transaction, found[id], Action.WRITE)
            records.append(found[id])
        except NotFound:
            missing.append(id)
    return records, tuple(missing)


def _writable(transaction: Transaction, record: Record) -> bool:
    """Whether the caller may forget it: what it may only read is not offered."""
    try:
        may(transaction, record, Action.WRITE)
    except (NotFound, NotAllowed):
        return False
    return True


def _confirmed(transaction: Transaction, token: str) -> tuple[tuple[str, ...], Mode]:
    """What a token stands for; it is used up.

    Raises:
        Expired: unknown, of another caller, or too old.
        Conflict: something that it names has changed since.
    """
    rows = transaction.rows("SELECT principal, mode, items, expires_at FROM confirmations WHERE token = ?", [token])
    fresh = "ask again without confirm for a new preview; nothing was changed"
    if not rows or rows[0][0] != transaction.caller.principal.name:
        raise Expired(f"this confirm token is not known (it is used up, or was never given): {fresh}")
    _, mode, items, expires = rows[0]
    if known_time(expires) < transaction.now:
        raise Expired(f"this confirm token is older than {CONFIRM_MINUTES} minutes: {fresh}")
    versions = dict(json.loads(items))
    found = transaction.records(versions)
    changed = [id for id in versions if id not in found or found[id].memory.version != versions[id]]
    if changed:
        raise Conflict(f"{', '.join(changed)} changed since the preview: {fresh}")
    transaction.execute("DELETE FROM confirmations WHERE token = ?", [token])
    return tuple(versions), Mode(mode)


# --- archive --------------------------------------------------------------------------------------------------------


def _archive(
    transaction: Transaction, records: Sequence[Record], missing: tuple[str, ...], reason: str | None
) -> ForgetResult:
    every = _with_pieces(transaction, records)
    moving = [(record, state_after(record.memory, Step.ARCHIVE)) for record in every]
    moving = [(record, state) for record, state in moving if record.memory.state is not state]
    reason = lasting(reason, [record.memory for record in every])
    by_cube: dict[str, list[str]] = {}
    for record, _ in moving:
        by_cube.setdefault(record.memory.cube, []).append(record.memory.id)
    revisions = {cube: transaction.audit("archive", cube, ids, reason=reason) for cube, ids in sorted(by_cube.items())}
    for record, state in moving:
        transaction.move(record, state, "archive", revisions[record.memory.cube], reason=reason)
    forgotten = tuple(Forgotten(record.memory.id, Mode.ARCHIVE) for record in records)
    return ForgetResult(forgotten=forgotten, not_found=missing)


def _with_pieces(transaction: Transaction, records: Sequence[Record]) -> list[Record]:
    wholes = [record.memory.id for record in records if record.memory.descriptive.parts]
    edges = queries.derived_from(transaction.connection, wholes)
    pieces = [derived for derived, edge in edges if edge.relation is Relation.PART_OF]
    known = {record.memory.id: record for record in records}
    known.update({id: record for id, record in transaction.records(pieces).items() if id not in known})
    return list(known.values())


# --- recorded answers -------------------------------------------------------------------------------------------------


def dump(result: ForgetResult) -> dict[str, Any]:
    receipt = result.receipt
    return {
        "invalidated": [result.invalidated.kv, result.invalidated.lora],
        "forgotten": [[item.id, item.mode.value] for item in result.forgotten],
        "not_found": list(result.not_found),
        "receipt": None if receipt is None else receipts.plain(receipt),
    }


def load(plain: dict[str, Any]) -> ForgetResult:
    receipt = plain["receipt"]
    return ForgetResult(
        forgotten=tuple(Forgotten(id, Mode(mode)) for id, mode in plain["forgotten"]),
        not_found=tuple(plain["not_found"]),
        invalidated=Invalidated(*plain.get("invalidated", ())),
        receipt=None if receipt is None else _load_receipt(receipt),
    )


def _load_receipt(plain: dict[str, Any]) -> Receipt:
    """A recorded receipt, also as earlier versions recorded them."""
    if "format" in plain:
        return receipts.from_plain(plain)
    return Receipt(
        id=plain["id"],
        at=datetime.fromisoformat(plain["at"]),
        erased=tuple(plain["erased"]),
        digests=tuple(plain["digests"]),
        removed=tuple((name, count) for name, count in plain["removed"]),
        out_of_reach=tuple(plain["out_of_reach"]),
        audit_seq=plain["audit_seq"],
    )
