"""How much is put into trainings for which nobody says otherwise. A plain value, without a tensor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """0: as was measured to be best."""

    steps: int = 0
    replayed: int = 0  # rows of each kind that hold the model still
    checkpoint_steps: int = 0  # after which a checkpoint is written
    whole: bool = False  # all steps are taken, also where everything is as taught before
