"""Stop strings: a reply ends before the first of them, and no part of one is ever shown.

Knows text alone, no token and no model: replies of local models and of remote servers pass through it alike.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Text passes through; what may be the beginning of a stop string waits until it is known not to be one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._waiting = ""

    def add(self, text: str) -> tuple[str, bool]:
        """What can be shown, and whether a stop string was found behind it."""
        text = self._waiting + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self._waiting = ""
            return text[: min(found)], True
        kept = max((self._beginning(text, stop) for stop in self._stops), default=0)
        shown, self._waiting = text[: len(text) - kept], text[len(text) - kept :]
        return shown, False

    def rest(self) -> str:
        """What was waiting, when nothing more comes."""
        rest, self._waiting = self._waiting, ""
        return rest

    @staticmethod
    def _beginning(text: str, stop: str) -> int:
        """How many of the last characters of `text` are the first of `stop`."""
        most = min(len(text), len(stop) - 1)
        return next((count for count in range(most, 0, -1) if stop.startswith(text[-count:])), 0)
