"""What the audit log of a copy of the database says: a backup, or a file that somebody made by hand.

Nothing of the store is opened and no byte of the copy is changed; an encrypted copy needs the store's key.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from engine.errors import Corrupt, NotFound
from engine.settings import Settings
from engine.vault import audit_log
from engine.vault.aes import AesSealer
from engine.vault.connection import Connection
from engine.vault.failures import what_lacks
from engine.vault.key_source import unwrap
from engine.vault.sealing import SEALING, UNSEALED, Sealer


def audit_problems_in(path: Path, settings: Settings) -> list[str]:
    """What is wrong with the audit log of a copy; empty: it is whole.

    Raises:
        NotFound: there is no such file.
        Corrupt: it is no copy of a store, or damaged.
        NotAllowed, Unavailable: it is encrypted, and the key at hand is not its own; or something else is missing.
    """
    if not path.is_file():
        raise NotFound(f"{path} is not there: name a backup, or another copy of the database")
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            rows = connection.execute("SELECT value FROM meta WHERE key = ?", [SEALING]).fetchall()
            sealer: Sealer = AesSealer(unwrap(rows[0][0], settings)) if rows else UNSEALED
            return audit_log.audit_problems(Connection(connection, sealer))
    except duckdb.Error as error:
        lacking = what_lacks(error)
        if lacking is not None:
            raise lacking from error
        raise Corrupt(f"{path} cannot be read as a copy of a store: it is something else, or damaged") from error
