"""A connection to the vault's database together with what opens and seals the values in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.vault.sealing import Sealer

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True)
class Connection:
    """What every query of the vault is given."""

    raw: duckdb.DuckDBPyConnection
    sealer: Sealer

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> duckdb.DuckDBPyConnection:
        """Run one statement; its rows are fetched from what is returned."""
        return self.raw.execute(sql, list(parameters))
