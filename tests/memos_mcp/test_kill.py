"""The daemon dies at random moments; nothing acknowledged is lost, and nothing is done twice."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.memos_mcp.kill_rounds import run
from tests.memos_mcp.processes import daemon_gone_after

ROUNDS = int(os.environ.get("MEMOS_KILL_ROUNDS", "6"))


@pytest.mark.timeout(60 + 20 * ROUNDS)
def test_nothing_acknowledged_is_lost_or_done_twice_when_the_daemon_is_killed(tmp_path: Path) -> None:
    with daemon_gone_after(tmp_path / "data") as data:
        outcome = run(data, ROUNDS, writers=3, chance=random.Random(7))
    assert outcome.kills == ROUNDS
    assert outcome.acknowledged
    assert (outcome.lost, outcome.twice, outcome.not_added, outcome.errors) == ([], [], [], [])
    assert sorted(outcome.stored) == sorted(outcome.acknowledged)
