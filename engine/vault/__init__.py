"""MemVault: the durable truth, in DuckDB. Every index and artifact can be rebuilt from it."""

from engine.vault.backup import backup_names, newest_backup, restore_backup
from engine.vault.transaction import Change, Transaction
from engine.vault.vault import MemVault

__all__ = ["Change", "MemVault", "Transaction", "backup_names", "newest_backup", "restore_backup"]
