"""Retention: earlier versions that a cube's policy no longer keeps are let go.

`keep_versions` bounds how many earlier versions each memory has, `keep_days` how long ago a version was replaced: what
was said within that time can still be told. Where both are set, the closer bound holds. Only the front of a history
goes, so that what is left has no gap: never the present version, never one that a snapshot needs (nor any behind it),
never any of a pinned or frozen memory. Letting go is not erasing: bytes are freed, not overwritten.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from cubes import Governance, MemCube
from engine.embeddings import SYSTEM
from engine.parts import Parts
from engine.vault import Transaction, past
from engine.vault.connection import Connection
from engine.vault.rows import stored_time

# A version must stay if it is the present one, within both bounds, or the one that a snapshot shows.
_LETTING_GO = """
WITH every AS (
    SELECT id, version, recorded, updated_at FROM memories WHERE cube = ?
    UNION ALL SELECT id, version, recorded, updated_at FROM versions WHERE cube = ?),
placed AS (
    SELECT *, lead(recorded) OVER behind AS replaced, lead(updated_at) OVER behind AS replaced_at,
        count(*) OVER (PARTITION BY id) - row_number() OVER behind AS newer
    FROM every WINDOW behind AS (PARTITION BY id ORDER BY version)),
staying AS (
    SELECT id, version FROM placed WHERE replaced IS NULL
        OR (newer <= coalesce(?::BIGINT, newer) AND replaced_at >= coalesce(?::TIMESTAMP, replaced_at))
    UNION ALL
    SELECT id, version FROM placed JOIN (SELECT moment, revision FROM snapshots WHERE cube = ?) AS s
        ON (recorded < s.revision AND s.revision <= replaced) OR (updated_at <= s.moment AND s.moment < replaced_at)),
kept AS (SELECT id, min(version) AS first_kept FROM staying GROUP BY id)
SELECT id, first_kept FROM kept JOIN (SELECT id, min(version) AS first FROM every GROUP BY id) USING (id)
WHERE first_kept > first ORDER BY id
"""


def retain(parts: Parts) -> int:
    """Let go what the cubes' policies no longer keep; how many versions that were."""
    return sum(_retain(parts, cube) for cube in parts.vault.cubes() if _is_bounded(cube) and _due(parts, cube))


def _is_bounded(cube: MemCube) -> bool:
    return cube.policy.keep_versions is not None or cube.policy.keep_days is not None


def _due(parts: Parts, cube: MemCube) -> bool:
    with parts.vault.reading() as connection:
        return bool(_letting_go(connection, cube, parts.clock.now()))


def _retain(parts: Parts, cube: MemCube) -> int:
    def job(transaction: Transaction) -> int:
        going = _letting_go(transaction.connection, cube, transaction.now)
        if not going:
            return 0
        gone = transaction.rows(
            "DELETE FROM versions USING (SELECT unnest(?::VARCHAR[]) AS id, unnest(?::INTEGER[]) AS first_kept) AS k"
            " WHERE versions.id = k.id AND versions.version < k.first_kept",
            [list(going), list(going.values())],
        )
        count = int(gone[0][0])
        policy = cube.policy
        transaction.audit(
            "retain",
            cube.name,
            versions=count,
            memories=len(going),
            keep_versions=policy.keep_versions,
            keep_days=policy.keep_days,
        )
        return count

    return parts.vault.write(job, SYSTEM)


def _letting_go(connection: Connection, cube: MemCube, now: datetime) -> dict[str, int]:
    """id -> the first version that stays, of the memories whose history has a front to let go."""
    policy = cube.policy
    since = None if policy.keep_days is None else stored_time(now - timedelta(days=policy.keep_days))
    name = cube.name
    found = dict(connection.execute(_LETTING_GO, [name, name, policy.keep_versions, since, name]).fetchall())
    held = {id for id, record in past.present_of(connection, found).items() if _is_held(record.memory.governance)}
    return {id: first for id, first in found.items() if id not in held}


def _is_held(rules: Governance) -> bool:
    return rules.pinned or rules.frozen
