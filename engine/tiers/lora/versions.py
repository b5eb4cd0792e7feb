"""Versions of a cube's adapter in a transaction: finding one, letting one rest, and whether one may serve."""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import Conflict, NotFound
from engine.tier_operations import AdapterState
from engine.tiers.lora.headers import judged_of, source_pairs
from engine.vault import Transaction, queries
from engine.vault.adapters import AdapterRow, adapters_of, set_state
from engine.vault.connection import Connection
from engine.vault.staging import SHOWN


def are_current(connection: Connection, sources: Sequence[tuple[str, int]]) -> bool:
    """Whether every memory is the one that an adapter was made from, and may be recalled still."""
    rows = connection.execute(
        f"SELECT id, version, state FROM memories WHERE id IN (SELECT unnest(?::VARCHAR[])) AND {SHOWN}",
        [[id for id, _ in sources]],
    ).fetchall()
    now = {id: version for id, version, state in rows if state in queries.LIVE_STATES}
    return all(now.get(id) == version for id, version in sources)


def row_of(connection: Connection, cube: str, version: int) -> AdapterRow:
    """A version that is there; 0: the one that serves.

    Raises:
        NotFound: there is none.
    """
    return chosen(adapters_of(connection, cube), cube, version)


def chosen(rows: Sequence[AdapterRow], cube: str, version: int) -> AdapterRow:
    """As `row_of`, among these versions of a cube."""
    there = [row for row in rows if row.state is not AdapterState.GONE]
    found = [row for row in there if (row.state is AdapterState.SERVING if version == 0 else row.version == version)]
    if found:
        return found[0]
    known = ", ".join(str(row.version) for row in there)
    which = "that serves" if version == 0 else f"{version}"
    remedy = f"there are {known}" if known else f"train one first (`memos-mcp tier train {cube}`)"
    if known and version == 0:
        remedy += f"; `memos-mcp tier activate {cube} N` lets one serve"
    raise NotFound(f"cube {cube!r} has no adapter version {which}: {remedy}")


def rest(transaction: Transaction, cube: str) -> None:
    """Let the version that serves rest."""
    for row in adapters_of(transaction.connection, cube):
        if row.state is AdapterState.SERVING:
            set_state(transaction, row.artifact, AdapterState.RESTING)


def require_passed(connection: Connection, row: AdapterRow) -> None:
    """Let pass what may serve.

    Raises:
        Conflict: it did not pass the gate here, or its memories are others by now.
    """
    judged, called = judged_of(row.header), f"version {row.version} of the adapter of cube {row.cube!r}"
    if judged is None:
        raise Conflict(f"{called} was never judged here: activate it when its model is loaded, and it is judged first")
    if judged.why:
        raise Conflict(f"{called} did not pass: {'; '.join(judged.why)}; train anew, or activate another version")
    if not are_current(connection, source_pairs(row)):
        raise Conflict(f"{called} was made from memories that are others by now: train anew")
