"""The benchmark of adapters runs, on a small scale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as Xml
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_it_trains_measures_what_forms_cost_and_leaves_nothing_behind(tmp_path: Path) -> None:
    result, picture, scratch = tmp_path / "lora.json", tmp_path / "lora.svg", tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "benchmarks/lora.py", "--quick", "--json", str(result), "--plot", str(picture)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(result.read_text("utf-8"))
    end = told["learned"][-1]
    assert end["steps"] == 30
    assert min(end["bytes"], end["trained phrasings"]) > 0
    assert {"in context", "unknown", "context wins"} <= set(end)
    assert told["tokens"]["in the adapter"] < told["tokens"]["1 as text"] < told["tokens"]["8 as text"]
    (costs,) = told["costs"].values()
    assert costs["text"]["make"] == 0 < costs["KV prefix"]["make"] < costs["adapter"]["make"]
    assert "another each time" in done.stdout
    for path in (picture, picture.with_stem("lora-learned")):
        assert any(element.tag.endswith("polyline") for element in Xml.parse(path).getroot().iter())
    assert list(scratch.glob("memos-lora-*")) == []
