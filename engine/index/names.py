"""Small numbers for names that many rows share: sessions, speakers, tags.

Each use is counted, so that a name whose last user left is forgotten and its number is given out again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Names:
    def __init__(self) -> None:
        self.all: list[str | None] = []  # by code; None: free
        self._codes: dict[str, int] = {}
        self._uses: list[int] = []
        self._free: list[int] = []

    @classmethod
    def of(cls, names: Sequence[str | None], used: NDArray[np.integer]) -> Names:
        """Names by code, as `all` had them, and every use of a code (negative: no use)."""
        result = cls()
        result.all = list(names)
        result._codes = {name: code for code, name in enumerate(names) if name is not None}
        result._uses = np.bincount(used[used >= 0], minlength=len(names)).tolist()
        result._free = [code for code, name in enumerate(names) if name is None]
        if len(result._uses) != len(names):
            raise ValueError("a row has a name that is not there")
        return result

    @property
    def size(self) -> int:
        return len(self.all)

    def code(self, name: str) -> int | None:
        return self._codes.get(name)

    def take(self, name: str) -> int:
        """The code of `name`, for one more user."""
        code = self._codes.get(name)
        if code is None:
            if self._free:
                code = self._free.pop()
                self.all[code], self._uses[code] = name, 0
            else:
                code = len(self.all)
                self.all.append(name)
                self._uses.append(0)
            self._codes[name] = code
        self._uses[code] += 1
        return code

    def give_back(self, code: int) -> None:
        """One user fewer."""
        self._uses[code] -= 1
        if self._uses[code] == 0:
            name = self.all[code]
            assert name is not None
            del self._codes[name]
            self.all[code] = None
            self._free.append(code)
