"""What encryption at rest costs: start, remember and recall of an encrypted store beside the same store in the plain.

    python benchmarks/encryption.py                    stores of 2,000 and 10,000 memories
    python benchmarks/encryption.py --sizes 500 --calls 50

Both stores hold the same memories with the same vectors, in one process, and are asked in turns, so that what else the
machine does hits them alike. A start is measured until the first recall is answered: with a plain store that reads the
snapshots of its indexes, with an encrypted one it derives the key from the passphrase, opens every memory and builds
the indexes. Nothing is asserted: it prints a table with ratios and writes the figures to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.texts import Sample, samples
from engine.memos import MemOS
from engine.operations import Caller, Recall, Remember
from engine.settings import Settings
from engine.vault.encrypting import encrypt
from engine.vault.key_source import KeyFile

RESULTS = Path(__file__).with_name("results")
ME = Caller()
BATCH = 500
TURN = 20  # calls of one store before it is the other one's turn
STARTS = 5
WARM_UP = 5
PLAIN, SEALED = "plain", "encrypted"
Times = dict[str, dict[str, list[float]]]  # what -> store -> milliseconds


def say(text: str) -> None:
    print(text, flush=True)


def took_ms(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return (time.perf_counter() - started) * 1_000


def fill(settings: Settings, texts: Sequence[Sample]) -> None:
    with MemOS.open(settings) as memos:
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            memos.import_memories([{"content": sample.content, "kind": "fact"} for sample in batch], ME)
        while memos.status(ME).degraded:
            time.sleep(0.5)  # until every memory has its vector


def measure(stores: dict[str, Settings], texts: Sequence[Sample], fresh: Sequence[Sample], calls: int) -> Times:
    times: Times = {"start": {}, "remember": {}, "recall": {}}
    for _ in range(STARTS):
        for name, settings in stores.items():
            times["start"].setdefault(name, []).append(started_ms(settings, texts[0].question))
    opened = {name: MemOS.open(settings) for name, settings in stores.items()}
    try:
        for memos in opened.values():
            for sample in texts[:WARM_UP]:
                memos.recall(Recall(query=sample.question), ME)
        for turn in range(0, calls, TURN):
            for name, memos in opened.items():
                for number in range(turn, min(turn + TURN, calls)):
                    written, asked = Remember(content=fresh[number].content), Recall(query=texts[number].question)
                    kept = took_ms(lambda memos=memos, written=written: memos.remember(written, ME))  # type: ignore[misc]
                    found = took_ms(lambda memos=memos, asked=asked: memos.recall(asked, ME))  # type: ignore[misc]
                    times["remember"].setdefault(name, []).append(kept)
                    times["recall"].setdefault(name, []).append(found)
    finally:
        for memos in opened.values():
            memos.close()
    return times


def started_ms(settings: Settings, question: str) -> float:
    """From nothing to the first complete answer; closing is not counted."""
    begun = time.perf_counter()
    memos = MemOS.open(settings)
    try:
        while memos.recall(Recall(query=question), ME).degraded:
            if time.perf_counter() - begun > 300:
                raise SystemExit("the index was not ready within 300 s")
        return (time.perf_counter() - begun) * 1_000
    finally:
        memos.close()


def percentile(times_ms: Sequence[float], percent: int) -> float:
    return quantiles(times_ms, n=100, method="inclusive")[percent - 1]


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def rows_of(size: int, times: Times, stores: dict[str, Settings], took_s: float) -> list[tuple[str, ...]]:
    rows = []
    for what, by_store in times.items():
        for percent in (50, 95):
            plain, sealed = (percentile(by_store[name], percent) for name in (PLAIN, SEALED))
            cells = (f"{plain:,.1f}", f"{sealed:,.1f}", f"{sealed / plain:.2f}")
            rows.append((f"{size:,}", f"{what} p{percent} (ms)", *cells))
    plain_mb, sealed_mb = (bytes_of(stores[name].data) / 1e6 for name in (PLAIN, SEALED))
    rows.append(
        (f"{size:,}", "data folder (MB)", f"{plain_mb:,.1f}", f"{sealed_mb:,.1f}", f"{sealed_mb / plain_mb:.2f}")
    )
    rows.append((f"{size:,}", "memos-mcp encrypt (s)", "", f"{took_s:,.1f}", ""))
    return rows


def table(rows: Sequence[Sequence[str]]) -> str:
    heading = ("memories", "", PLAIN, SEALED, "ratio")
    widths = [max(len(row[column]) for row in (heading, *rows)) for column in range(len(heading))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (heading, *rows)]
    return "\n".join([lines[0], "-|-".join("-" * width for width in widths), *lines[1:]])


def run(size: int, calls: int, folder: Path) -> tuple[list[tuple[str, ...]], Times]:
    texts, fresh = samples(size), samples(calls, seed=2)
    fresh = [replace(sample, content=f"{sample.content} It was looked up again.") for sample in fresh]
    plain = Settings(data=folder / f"{size} {PLAIN}", offline=True, backup_every_h=0)
    began = time.perf_counter()
    fill(plain, texts)
    say(f"  {size:,} memories in {time.perf_counter() - began:,.0f} s")
    sealed = replace(plain, data=folder / f"{size} {SEALED}")
    shutil.copytree(plain.data, sealed.data)
    words = folder / "passphrase"
    words.write_text("correct horse battery staple\n")
    words.chmod(0o600)
    took_s = took_ms(lambda: encrypt(sealed, KeyFile(words))) / 1_000
    stores = {PLAIN: plain, SEALED: sealed}
    times = measure(stores, texts, fresh, calls)
    return rows_of(size, times, stores, took_s), times


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", type=int, nargs="+", default=[2_000, 10_000], metavar="N")
    options.add_argument("--calls", type=int, default=200, metavar="N", help="of remember and of recall, each")
    chosen = options.parse_args()
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for size in chosen.sizes:
            say(f"preparing a store of {size:,} memories, twice …")
            more, figures[str(size)] = run(size, min(chosen.calls, size), Path(folder))
            rows += more
    say(table(rows))
    RESULTS.mkdir(exist_ok=True)
    machine = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    result = {"at": datetime.now(UTC).isoformat(), "machine": machine, "rows": rows, "times_ms": figures}
    (RESULTS / "encryption.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
