"""From the engine's values about the scheduler to JSON: how it stands, and what it moved and why.

As `render_tiers`: names are those of the contract, and nothing is asked of the engine.
"""

from __future__ import annotations

from typing import Any

from engine.tier_operations import Scheduled, SchedulerStatus
from memos_mcp.render import when

DIGITS = 3


def move(made: Scheduled) -> dict[str, Any]:
    """One move: its row in the audit log, what was moved where and why, what became of it, how to take it back."""
    return {
        "number": made.number,
        "at": when(made.at),
        "part": made.part,
        "cube": made.cube,
        "ids": list(made.ids),
        "to": made.to,
        "reason": made.reason,
        "outcome": made.outcome,
        "undo": made.undo,
    }


def brief(standing: dict[str, Any]) -> dict[str, Any]:
    """What the status of the store says of it."""
    return {name: standing[name] for name in ("parts", "levels", "predicted", "last_run", "remarks")}


def standing(status: SchedulerStatus) -> dict[str, Any]:
    """Parts, budgets and levels, with what was done last."""
    return {
        "parts": {name: "on" if on else "off" for name, on in status.parts},
        "budgets": {
            name: {"used": round(used, DIGITS), "of": round(most, DIGITS)} for name, used, most in status.budgets
        },
        "quiet": status.quiet,
        "last_run": when(status.last_run),
        "levels": dict(status.levels),
        "predicted": status.predicted,
        "recent": [move(made) for made in status.recent],
        "remarks": list(status.remarks),
    }
