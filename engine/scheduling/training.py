"""Trainings as the scheduler asks for them: in the background, for the owner's cubes, through `engine.distilling`.

Knows no plan and no model. What must stay true: what is asked for here is work like any other: it is seen, cancelled
and taken up again as what people ask for.
"""

from __future__ import annotations

from engine.answering.answering import Answering
from engine.distilling.distilling import Distilling
from engine.embeddings import SYSTEM
from engine.errors import Conflict, NotFound
from engine.parts import Parts
from engine.tier_operations import AdapterState, Distil, WorkView
from engine.vault.adapters import adapters_of


class Trainings:
    """See `engine.scheduling.executing.Training`."""

    def __init__(self, parts: Parts, answering: Answering, distilling: Distilling) -> None:
        self._parts, self._answering, self._distilling = parts, answering, distilling

    def train(self, request: Distil) -> str:
        """Have an adapter trained in the background; the id of the work."""
        asked = self._distilling.distil(request, SYSTEM)
        assert isinstance(asked, WorkView)  # in the background
        return asked.id

    def cancel(self, work: str) -> bool:
        """End that work, if it has not ended; whether it had not."""
        try:
            self._distilling.cancel(work, SYSTEM)
        except (Conflict, NotFound):
            return False
        return True

    def serving(self, cube: str) -> int:
        """The version that serves a cube; 0: none."""
        with self._parts.vault.reading() as connection:
            rows = adapters_of(connection, cube)
        return next((row.version for row in rows if row.state is AdapterState.SERVING), 0)

    def activate(self, cube: str, version: int | None, reason: str) -> None:
        """Have that version serve, or none."""
        self._answering.adapters.activate(cube, version, SYSTEM, reason)
