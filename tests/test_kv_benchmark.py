"""The benchmark of KV caches runs, on a small scale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as Xml
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_it_measures_every_form_and_leaves_nothing_behind(tmp_path: Path) -> None:
    result, picture, scratch = tmp_path / "kv.json", tmp_path / "kv.svg", tmp_path / "scratch"
    scratch.mkdir()
    small = ("--quick", "--sizes", "64", "128", "--cases", "4", "--json", str(result), "--plot", str(picture))
    done = subprocess.run(
        [sys.executable, "benchmarks/kv.py", *small],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(result.read_text("utf-8"))
    assert [entry["tokens"] for entry in told["speed"]] == [64, 128]
    arms = {"full prefill", "floor", "prefix", "chunk", "chunk + 30%", "chunk + 50%", "int8", "int4"}
    cold = {f"{form}, cold" for form in ("prefix", "chunk", "int8", "int4")}
    for entry in told["speed"]:
        assert set(entry["seconds"]) == arms | cold
        assert min(entry["seconds"].values()) > 0
        plain, eight, four = (entry["bytes"][form][1] for form in ("prefix", "int8", "int4"))
        assert plain > 3 * eight > 3 * four
    assert told["quality"]["prefix"]["right"] == told["quality"]["full prefill"]["right"]
    assert told["quality"]["chunk + 100%"]["kl"] < 1e-6
    assert "chunk + 30%" in done.stdout
    drawn = Xml.parse(picture).getroot()
    lines = [element for element in drawn.iter() if element.tag.endswith("polyline")]
    assert len(lines) == len(arms)
    assert list(scratch.glob("memos-kv-*")) == []
