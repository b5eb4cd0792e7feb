"""How long things take through stdio: the start, remember and recall, with a store of 10,000 memories.

    python benchmarks/latency.py             this project alone
    python benchmarks/latency.py --peers     beside mcp-memory-service and the official server-memory

All servers hold the same texts and are asked the same questions by the same minimal client, in turns of a few calls
each, so that what else the machine does hits them alike. Nothing is asserted: it prints a table with ratios and
writes the figures to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peers import RIVAL, LeftOut, Subject, memory_service, memory_service_tuned, server_memory
from benchmarks.stdio import Server
from benchmarks.texts import Sample, samples

COMMAND = str(Path(sys.executable).with_name("memos-mcp"))
OURS = "memos-mcp"
RESULTS = Path(__file__).with_name("results")
LIMIT = 8
TURN = 20  # calls of one server before it is the next one's turn
WARM_UP = 5


@dataclass
class Figures:
    """Milliseconds of every measured call, by server and by what was measured."""

    times_ms: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, server: str, what: str, took_ms: float) -> None:
        self.times_ms.setdefault(what, {}).setdefault(server, []).append(took_ms)


def say(text: str) -> None:
    print(text, flush=True)


def ours(data: Path) -> Subject:
    return Subject(
        OURS,
        (COMMAND, "--offline", "--data", str(data / "memos")),
        lambda text, number: ("remember", {"content": text}),
        lambda query: ("recall", {"query": query, "limit": LIMIT}),
        "this project, defaults",
    )


def subjects(data: Path, cache: Path, with_peers: bool) -> Iterator[Subject]:
    yield ours(data)
    if not with_peers:
        return
    cache.mkdir(parents=True, exist_ok=True)
    for make in (memory_service, memory_service_tuned, server_memory):
        say(f"preparing {make.__name__.replace('_', '-')} …")
        try:
            yield make(cache, data, LIMIT)
        except LeftOut as reason:
            say(f"  left out: {reason}")


# --- the store of every server --------------------------------------------------------------------------------------


def preload(subject: Subject, texts: Sequence[Sample], data: Path, cache: Path) -> None:
    """Fill a server's store: ours through `import`, the official one by its file, the other through its tool."""
    started = time.perf_counter()
    if subject.name == OURS:
        lines = "".join(json.dumps(record(sample, number)) + "\n" for number, sample in enumerate(texts))
        subprocess.run(
            [COMMAND, "import", "jsonl", "-", "--offline", "--data", str(data / "memos")],
            input=lines.encode(),
            stdout=subprocess.DEVNULL,
            check=True,
        )
    elif "MEMORY_FILE_PATH" in subject.env:
        with Path(subject.env["MEMORY_FILE_PATH"]).open("w", encoding="utf-8") as file:
            for number, sample in enumerate(texts):
                name = f"memory {number}"
                entity = {"type": "entity", "name": name, "entityType": "fact", "observations": [sample.content]}
                file.write(json.dumps(entity) + "\n")
    else:
        fill_by_tool(subject, texts, cache)
    say(f"  {subject.name}: {len(texts):,} memories in {time.perf_counter() - started:,.0f} s")


def fill_by_tool(subject: Subject, texts: Sequence[Sample], cache: Path) -> None:
    """One call a text, which takes minutes; so what comes of it is kept for the next run."""
    database = Path(subject.env["MCP_MEMORY_SQLITE_PATH"])
    digest = hashlib.blake2b("".join(sample.content for sample in texts).encode(), digest_size=8).hexdigest()
    kept = cache / f"{RIVAL}-{len(texts)}-{digest}.db"  # padding changes no vector
    if not kept.exists():
        with Server(subject.command, subject.env) as server:
            for number, sample in enumerate(texts):
                server.call(*subject.store(sample.content, number))
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(f"{kept}.part")) as target:
            source.backup(target)
        Path(f"{kept}.part").replace(kept)
    shutil.copyfile(kept, database)
    for rest in ("-wal", "-shm"):
        Path(f"{database}{rest}").unlink(missing_ok=True)


def record(sample: Sample, number: int) -> dict[str, str]:
    """A memory as `export` writes it: with an id and a state it is put in as it is, many at once."""
    at = "2026-01-01T00:00:00+00:00"
    header = {"id": f"m_{number:020d}", "cube": "default", "state": "generated", "kind": "fact"}
    return {**header, "content": sample.content, "created_at": at, "updated_at": at}


def stop_ours(data: Path) -> None:
    subprocess.run([COMMAND, "stop", "--data", str(data / "memos")], stdout=subprocess.DEVNULL, check=True)


# --- measuring ------------------------------------------------------------------------------------------------------


def measure_starts(every: Sequence[Subject], data: Path, figures: Figures, times: int) -> None:
    """From the start of the process to its reply to `initialize`; ours with and without a daemon."""
    for _ in range(times):
        for subject in every:
            if subject.name == OURS:
                stop_ours(data)
                with Server(subject.command, subject.env) as server:
                    figures.add(OURS, "start, cold", server.start_ms)
                with Server(subject.command, subject.env) as server:
                    figures.add(OURS, "start, warm", server.start_ms)
            else:
                with Server(subject.command, subject.env) as server:
                    for what in ("start, cold", "start, warm"):  # it has no daemon: every start is the same
                        figures.add(subject.name, what, server.start_ms)


def measure_calls(every: Sequence[Subject], texts: Sequence[Sample], preloaded: int, figures: Figures) -> None:
    """Remember and recall, in turns."""
    new = texts[preloaded:]
    with ExitStack() as stack:
        servers = {subject.name: stack.enter_context(Server(subject.command, subject.env)) for subject in every}
        for subject in every:
            for number in range(WARM_UP):
                servers[subject.name].call(*subject.search(texts[number].question))
        for first in range(0, len(new), TURN):
            turn = list(enumerate(new[first : first + TURN], preloaded + first))
            for subject in every:
                call = servers[subject.name].call
                for number, sample in turn:
                    figures.add(subject.name, "remember", call(*subject.store(sample.content, number)))
                for _, sample in turn:
                    figures.add(subject.name, "recall", call(*subject.search(sample.question)))


# --- the report -----------------------------------------------------------------------------------------------------


def percentiles(times_ms: Sequence[float]) -> dict[str, float]:
    cuts = quantiles(times_ms, n=100, method="inclusive") if len(times_ms) > 1 else [times_ms[0]] * 99
    return {"p50_ms": round(cuts[49], 2), "p95_ms": round(cuts[94], 2), "calls": len(times_ms)}


def report(figures: Figures) -> dict[str, Any]:
    """The table, printed, and the figures for the file."""
    say(f"\n{'':14}{'server':26}{'p50':>10}{'p95':>10}   {f'× {RIVAL}':>24}")
    rows: dict[str, Any] = {}
    for what, servers in figures.times_ms.items():
        rows[what] = {name: percentiles(times) for name, times in servers.items()}
        rival = rows[what].get(RIVAL)
        for name, row in rows[what].items():
            ratios = [row[key] / rival[key] for key in ("p50_ms", "p95_ms")] if rival else []
            row["ratio_to_rival"] = [round(ratio, 3) for ratio in ratios]
            shown = " / ".join(f"{ratio:.2f}" for ratio in ratios)
            say(f"{what:14}{name:26}{row['p50_ms']:>7,.1f} ms{row['p95_ms']:>7,.1f} ms   {shown:>24}")
    return rows


def environment() -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
    }


def write(result: dict[str, Any], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"latency-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return path


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memories", type=positive, default=10_000, help="in every store before measuring")
    parser.add_argument("--calls", type=positive, default=300, help="measured remembers and recalls, each")
    parser.add_argument("--starts", type=positive, default=10, help="measured starts of each kind")
    parser.add_argument("--peers", action="store_true", help="install and measure the other servers too")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memos-benchmarks"
    parser.add_argument("--cache", type=Path, default=cache, help="where the other servers are installed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures are written")
    return parser.parse_args()


def main() -> int:
    chosen = options()
    texts = samples(chosen.memories + chosen.calls)
    figures = Figures()
    data = Path(tempfile.mkdtemp(prefix="memos-latency-"))
    try:
        every = list(subjects(data, chosen.cache, chosen.peers))
        say(f"filling the stores with {chosen.memories:,} memories of about {_mean_words(texts)} words …")
        for subject in every:
            preload(subject, texts[: chosen.memories], data, chosen.cache)
        say(f"measuring {chosen.starts} starts, {chosen.calls} remembers and {chosen.calls} recalls of each …")
        measure_starts(every, data, figures, chosen.starts)
        measure_calls(every, texts, chosen.memories, figures)
        rows = report(figures)
    finally:
        stop_ours(data)
        shutil.rmtree(data)
    notes = {subject.name: subject.note for subject in every}
    path = write(
        {"what": "latency", **environment(), "memories": chosen.memories, "servers": notes, "rows": rows},
        chosen.results,
    )
    for name, note in notes.items():
        say(f"{name}: {note}")
    say(f"written to {path}")
    return 0


def _mean_words(texts: Sequence[Sample]) -> int:
    return round(sum(len(sample.content.split()) for sample in texts) / len(texts))


if __name__ == "__main__":
    sys.exit(main())
