"""The latency benchmark runs, on a small scale and without other servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.texts import samples

ROOT = Path(__file__).resolve().parents[1]


def test_its_texts_are_all_different_and_the_same_each_time() -> None:
    contents = [sample.content for sample in samples(2_000)]
    assert len(set(contents)) == 2_000
    assert contents[:10] == [sample.content for sample in samples(10)]


def test_it_measures_starts_and_calls_and_leaves_nothing_behind(tmp_path: Path) -> None:
    results = tmp_path / "results"
    small = ("--memories", "20", "--calls", "5", "--starts", "1", "--results", str(results))
    done = subprocess.run(
        [sys.executable, "benchmarks/latency.py", *small],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    (path,) = results.glob("latency-*.json")
    rows = json.loads(path.read_text("utf-8"))["rows"]
    assert {what: rows[what]["memos-mcp"]["calls"] for what in rows} == {
        "start, cold": 1,
        "start, warm": 1,
        "remember": 5,
        "recall": 5,
    }
    assert "start, warm" in done.stdout
    assert list(tmp_path.glob("memos-latency-*")) == []
