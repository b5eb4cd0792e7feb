"""MemStore: shelves of signed bundles, in a folder or behind a URL."""

from engine.store.entries import Entry
from engine.store.shelf import MemStore

__all__ = ["Entry", "MemStore"]
