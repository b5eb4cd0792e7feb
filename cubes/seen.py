"""Which ids went by already, in 8 bytes each: ten million memories take 80 MB and not a gigabyte.

Ids are hashed under a key that is drawn anew each time, so nobody can make two of them collide; by chance it happens
once in 300,000 bundles of ten million memories.
"""

from __future__ import annotations

import hashlib
import secrets

import numpy as np

_BATCH = 65_536  # ids that wait in a set until they are sorted in


class Hasher:
    """64-bit hashes that differ from one Hasher to the next."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(16)

    def __call__(self, raw: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(raw, digest_size=8, key=self._key).digest(), "little")


class Seen:
    """A set of ids that only grows."""

    def __init__(self) -> None:
        self._hash = Hasher()
        self._recent: set[int] = set()
        self._sorted = np.zeros(0, dtype=np.uint64)

    def add(self, id: str) -> bool:
        """Put it in; False where it was there already."""
        number = self._hash(id.encode())
        if number in self._recent or self._is_sorted_in(number):
            return False
        self._recent.add(number)
        if len(self._recent) >= _BATCH:
            fresh = np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent))
            self._sorted = np.sort(np.concatenate([self._sorted, fresh]))
            self._recent.clear()
        return True

    def _is_sorted_in(self, number: int) -> bool:
        if not self._sorted.size:
            return False
        place = int(np.searchsorted(self._sorted, np.uint64(number)))
        return place < self._sorted.size and int(self._sorted[place]) == number
