"""The benchmark of the scheduler runs, on a small scale, and what it measures is there to be measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as Xml
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_prediction_has_ready_what_lru_has_not_where_sessions_have_a_pattern(tmp_path: Path) -> None:
    result, scratch = tmp_path / "scheduler.json", tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "benchmarks/scheduler.py", "--quick", "--json", str(result)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(result.read_text("utf-8"))
    assert set(told) == {
        f"generated: {name}" for name in ("habits", "procedures", "topics", "the same again", "no pattern")
    }
    for pattern in ("habits", "procedures", "topics"):
        for share in told[f"generated: {pattern}"]["shares"].values():
            assert share["prediction"]["hits"] >= 1.3 * share["LRU"]["hits"]
    for share in told["generated: the same again"]["shares"].values():  # LRU is right here, and is kept up with
        assert share["prediction"]["hits"] >= 0.9 * share["LRU"]["hits"]
    assert "tokens of prefill saved a turn" in done.stdout
    assert list(scratch.iterdir()) == []
    drawn = Xml.parse(result.with_suffix(".svg")).getroot()
    lines = [element for element in drawn.iter() if element.tag.endswith("polyline")]
    assert len(lines) == 5 * 6  # logs × policies
