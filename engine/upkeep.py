"""What the engine does by itself: expiry, written uses, snapshots, backups, vectors that are missing, old records.

Each task is a function that can be run at any time and leaves a whole state; `MemOS.sweep` runs them all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from cubes import MemCube
from engine.embeddings import SYSTEM
from engine.errors import Corrupt
from engine.governance.policy import unused_for
from engine.indexer import SAVE_AFTER_CHANGES
from engine.lifecycle.states import Step, state_after
from engine.parts import Parts
from engine.vault import Transaction, audit_log, backup_names, queries
from engine.vault.backup import AUTOMATIC, backup_path
from engine.vault.rows import known_time, stored_time
from engine.vault.sealed_columns import unopened
from engine.vault.staging import SHOWN
from engine.vault.work import forget_ended, has_old

DECAYED_TOGETHER = 256  # memories, or long texts with their pieces, in one transaction
OPERATIONS_KEPT = timedelta(days=7)  # how long an answer is kept for a client that sends its request again
STAMP = "%Y%m%dT%H%M%S.%fZ"
log = logging.getLogger(__name__)


def expire(parts: Parts) -> int:
    """Move what has expired to the state `expired`; how many memories that were."""

    def job(transaction: Transaction) -> int:
        rows = transaction.rows(
            f"SELECT id FROM memories WHERE expires_at <= ? AND state <> 'expired' AND {SHOWN}",
            [stored_time(transaction.now)],
        )
        records = [
            record
            for record in transaction.records(row[0] for row in rows).values()
            if not record.memory.governance.frozen
        ]
        for cube in sorted({record.memory.cube for record in records}):
            mine = [record for record in records if record.memory.cube == cube]
            revision = transaction.audit("expire", cube, [record.memory.id for record in mine])
            for record in mine:
                transaction.move(record, state_after(record.memory, Step.EXPIRE), "expire", revision)
        return len(records)

    due = parts.vault.rows(
        f"SELECT count(*) FROM memories WHERE expires_at <= ? AND state <> 'expired' AND {SHOWN}",
        [stored_time(parts.clock.now())],
    )
    return parts.vault.write(job, SYSTEM) if due[0][0] else 0


def decay(parts: Parts) -> int:
    """Archive what nobody has used for as long as its cube's policy says; how many memories that were.

    A long text is put away whole, when neither it nor any of its pieces was used. What is restored counts as used.
    """
    decaying = [cube for cube in parts.vault.cubes() if cube.policy.decay_days is not None and cube.mounted is None]
    return sum(_decay(parts, cube) for cube in decaying if _faded(parts, cube))


def fading(parts: Parts) -> Iterator[tuple[MemCube, list[str], float]]:
    """What `decay` would archive now: the cube, ids that go together, and the days of its policy."""
    for cube in parts.vault.cubes():
        if cube.policy.decay_days is not None and cube.mounted is None:
            yield from ((cube, ids, cube.policy.decay_days) for ids in _faded(parts, cube))


def _faded(parts: Parts, cube: MemCube) -> list[list[str]]:
    with parts.vault.reading() as connection:
        return _unused(Transaction(connection, parts.vault.head, parts.clock.now(), SYSTEM), cube)


def _decay(parts: Parts, cube: MemCube) -> int:
    def job(transaction: Transaction) -> int:
        faded = [id for unit in _unused(transaction, cube)[:DECAYED_TOGETHER] for id in unit]
        records = list(transaction.records(faded).values())
        if not records:
            return 0
        ids = [record.memory.id for record in records]
        revision = transaction.audit("decay", cube.name, ids, decay_days=cube.policy.decay_days)
        moved = [(record, replace(record.memory, state=state_after(record.memory, Step.ARCHIVE))) for record in records]
        transaction.revise_all(moved, "decay", revision)
        return len(records)

    total = 0
    while moved := parts.vault.write(job, SYSTEM):
        total += moved
    return total


def _unused(transaction: Transaction, cube: MemCube) -> list[list[str]]:
    """Ids that go together and were not used for so long, given how much they matter."""
    assert cube.policy.decay_days is not None
    now = transaction.now
    units = queries.unused(transaction.connection, cube.name, now - timedelta(days=cube.policy.decay_days))
    records = transaction.records(id for ids, _ in units for id in ids)
    spans = [(ids, last, unused_for(cube.policy, [records[id].memory for id in ids])) for ids, last in units]
    return [ids for ids, last, span in spans if span is not None and now - last >= span]


def drop_old_records(parts: Parts) -> None:
    """Forget answers that nobody asks for again, previews whose time has passed, and what became of old work."""
    now = parts.clock.now()

    def job(transaction: Transaction) -> None:
        transaction.execute("DELETE FROM operations WHERE recorded_at < ?", [stored_time(now - OPERATIONS_KEPT)])
        transaction.execute("DELETE FROM confirmations WHERE expires_at < ?", [stored_time(now)])
        forget_ended(transaction)

    due = parts.vault.rows(
        "SELECT (SELECT count(*) FROM operations WHERE recorded_at < ?)"
        " + (SELECT count(*) FROM confirmations WHERE expires_at < ?)",
        [stored_time(now - OPERATIONS_KEPT), stored_time(now)],
    )
    with parts.vault.reading() as connection:
        old = has_old(connection, now)
    if due[0][0] or old:
        parts.vault.write(job, SYSTEM)


def last_backup(parts: Parts) -> datetime | None:
    """When the newest automatic backup was made."""
    names = backup_names(parts.vault.settings)
    return known_time(datetime.strptime(names[-1].name.split("-")[0], STAMP)) if names else None


def back_up_if_due(parts: Parts) -> bool:
    """Make an automatic backup when the last one is old and something has changed since; keep the newest few."""
    settings, now = parts.vault.settings, parts.clock.now()
    if not settings.backup_every_h or not settings.backups_kept or not parts.vault.revision:
        return False
    last = last_backup(parts)
    if last is not None:
        changed = parts.vault.rows("SELECT count(*) FROM audit WHERE recorded_at > ?", [stored_time(last)])
        if now - last < timedelta(hours=settings.backup_every_h) or not changed[0][0]:
            return False
    parts.vault.backup(backup_path(settings, now, AUTOMATIC))
    for path in backup_names(settings)[: -settings.backups_kept]:
        path.unlink(missing_ok=True)
    return True


def save_indexes(parts: Parts, *, all_: bool) -> None:
    """Write index snapshots that are far behind, or all that are behind at all."""
    try:
        parts.indexes.save(at_least=1 if all_ else SAVE_AFTER_CHANGES)
    except OSError as error:
        log.error("no index snapshot was written (it is rebuilt at the next start): %s", error.strerror)


def problems(parts: Parts) -> tuple[str, ...]:
    """What is wrong with the store: damaged bytes, a broken audit chain, memories or indexes that miss something."""
    found: list[str] = []
    for look in (_vault_problems, _index_problems):
        try:
            found += look(parts)
        except Corrupt as error:
            found.append(str(error))
    return tuple(dict.fromkeys(found))


def _vault_problems(parts: Parts) -> list[str]:
    with parts.vault.reading() as connection:
        queries.read_everything(connection)
        found = [*audit_log.audit_problems(connection), *unopened(connection)]
        for says, sql in _CHECKS:
            rows = connection.execute(sql).fetchall()
            found += [f"{says}: {row[0]}" for row in rows]
    return found


def _index_problems(parts: Parts) -> Iterator[str]:
    with parts.vault.reading() as connection:
        names = [cube.name for cube in queries.cubes(connection)]
    # Not while reading: a compaction waits for readers, and the loading of an index may wait for the compaction.
    for name in names:
        ready, revision = parts.indexes.ready(name), parts.vault.revision
        with parts.vault.reading() as connection:
            expected = queries.indexed(connection, name)
        if ready is not None and len(ready[0]) != expected and parts.vault.revision == revision:
            yield f"the index of cube {name!r} holds {len(ready[0])} memories, the vault {expected}"


_CHECKS = (
    (
        "a memory is in a cube that does not exist",
        f"SELECT id FROM memories WHERE cube NOT IN (SELECT name FROM cubes) AND {SHOWN}",
    ),
    (
        "a memory's history has a gap",
        # A front may be missing where retention let it go, here or where a file comes from; never what is behind it.
        "SELECT m.id FROM memories AS m LEFT JOIN (SELECT id, min(version) AS first, max(version) AS last,"
        f" count(*) AS kept FROM versions GROUP BY id) AS v USING (id) WHERE {SHOWN} AND (v.last <> m.version - 1"
        " OR v.kept <> v.last - v.first + 1 OR (coalesce(v.kept, 0) < m.version - 1 AND m.cube NOT IN"
        " (SELECT cube FROM audit WHERE action IN ('retain', 'import', 'install', 'mount'))))",
    ),
    (
        "a change has no row in the audit log",
        # A snapshot that came with a bundle is of no change here.
        f"SELECT id FROM (SELECT id, revision FROM memories WHERE {SHOWN}"
        f" UNION ALL SELECT id, revision FROM versions WHERE {SHOWN}"
        " UNION ALL SELECT name, revision FROM cube_versions"
        " UNION ALL SELECT name, revision FROM snapshots WHERE revision > 0)"
        " WHERE revision NOT IN (SELECT seq FROM audit)",
    ),
    (
        "an erased memory is still there",
        "SELECT id FROM tombstones WHERE id IN (SELECT id FROM memories UNION ALL SELECT id FROM versions"
        " UNION ALL SELECT id FROM embeddings)",
    ),
)
