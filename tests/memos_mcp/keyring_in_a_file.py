"""A keyring for processes under test, which have no desktop: it keeps what it is given in a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend


class Keyring(KeyringBackend):
    priority = 5.0  # type: ignore[assignment]

    @property
    def _path(self) -> Path:
        return Path(os.environ["MEMOS_TEST_KEYRING"])

    def _kept(self) -> dict[str, str]:
        return dict(json.loads(self._path.read_text())) if self._path.exists() else {}

    def get_password(self, service: str, username: str) -> str | None:
        return self._kept().get(f"{service} {username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self._path.write_text(json.dumps({**self._kept(), f"{service} {username}": password}))

    def delete_password(self, service: str, username: str) -> None:
        self._path.write_text(json.dumps({k: v for k, v in self._kept().items() if k != f"{service} {username}"}))
