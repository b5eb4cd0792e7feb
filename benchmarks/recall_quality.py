"""How well recall finds what answers a question, on public conversations, beside three baselines.

    python benchmarks/recall_quality.py                     all sets; takes a quarter of an hour on two cores
    python benchmarks/recall_quality.py --set locomo --stores 1

The sets lie in the folder that MEMOS_EVAL_DATA names (default: ../shared/data beside the project); none of them is
part of the project. Each store goes into a fresh data folder through the real `remember`, session by session, and is
asked through the real `recall`, with one and the same defaults for all. A query with `as_of_session` is asked when
only the sessions before that one are in. Results go to benchmarks/results/ as JSON and as a table.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.baselines import Baselines
from benchmarks.retrieval_metrics import OVERALL, Tally, measure, table
from engine.index.embedder import Embedder, open_embedder
from engine.memos import MemOS
from engine.operations import Caller, Recall, Remember, Turn
from engine.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results")
SETS = ("locomo", "realmem", "beam100k")
OURS = "memos-mcp"
LIMIT, TOKENS = 100, 100_000
ME = Caller()


@dataclass
class Outcome:
    """What one set gave."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    recall_ms: list[float] = field(default_factory=list)
    nothing_relevant: int = 0  # answerable queries of which recall said so

    def add(self, system: str, query: dict[str, Any], ranked: Sequence[str]) -> None:
        if query["gold"]:
            figures = measure(ranked, query["gold"], query.get("new") or (), query.get("old") or ())
            self.tallies.setdefault(system, Tally()).add(query["category"], figures)


def main() -> int:
    options = _options()
    folder = Path(os.environ.get("MEMOS_EVAL_DATA") or ROOT.parent / "shared" / "data")
    wanted = [options.set] if options.set else [name for name in SETS if (folder / f"{name}.json").exists()]
    missing = [name for name in wanted if not (folder / f"{name}.json").exists()]
    if missing or not wanted:
        say(f"no data: {', '.join(missing or SETS)} should be in {folder} (MEMOS_EVAL_DATA names another folder)")
        return 1
    report: dict[str, Any] = {}
    text = []
    with tempfile.TemporaryDirectory(prefix="memos-quality-") as scratch:
        embedder = open_embedder(Settings(data=Path(scratch), offline=True), say)
        for name in wanted:
            data = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            outcome = run_set(name, data["stores"][: options.stores], embedder, Path(scratch))
            report[name] = _as_plain(outcome)
            text.append(_as_text(name, outcome))
            say(text[-1])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "recall_quality.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    (RESULTS / "recall_quality.txt").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    return 0


def run_set(name: str, stores: Sequence[dict[str, Any]], embedder: Embedder, scratch: Path) -> Outcome:
    """Ours and the baselines over every store of a set."""
    outcome = Outcome()
    for number, store in enumerate(stores, 1):
        where = f"{name} {number}/{len(stores)}"
        with MemOS.open(Settings(data=scratch / f"{name}-{number}", offline=True), announce=say) as memos:
            run_ours(memos, store, outcome, where)
        run_baselines(store, embedder, outcome, where)
    return outcome


def run_ours(memos: MemOS, store: dict[str, Any], outcome: Outcome, where: str) -> None:
    key_of: dict[str, str] = {}
    pending = sorted(store["queries"], key=_asked_after)
    asked = 0
    for session, memories in _sessions(store):
        while asked < len(pending) and _asked_after(pending[asked]) <= _number(session):
            ask(memos, pending[asked], key_of, outcome)
            asked += 1
        turns = tuple(_turn(memory) for memory in memories)
        stored = memos.remember(Remember(messages=turns, source=session), ME).stored
        key_of.update((item.id, memory["key"]) for item, memory in zip(stored, memories, strict=True))
        progress(f"{where}: {len(key_of)} of {len(store['memories'])} memories, {asked} of {len(pending)} queries")
    for number, query in enumerate(pending[asked:], asked + 1):
        ask(memos, query, key_of, outcome)
        progress(f"{where}: {len(key_of)} memories, {number} of {len(pending)} queries")


def ask(memos: MemOS, query: dict[str, Any], key_of: dict[str, str], outcome: Outcome) -> None:
    began = time.perf_counter()
    found = memos.recall(Recall(query=query["text"], limit=LIMIT, max_tokens=TOKENS), ME)
    outcome.recall_ms.append(1_000 * (time.perf_counter() - began))
    outcome.nothing_relevant += bool(query["gold"]) and found.nothing_relevant
    outcome.add(OURS, query, [key_of[item.memory.id] for item in found.memories])


def run_baselines(store: dict[str, Any], embedder: Embedder, outcome: Outcome, where: str) -> None:
    memories = store["memories"]
    baselines = Baselines(
        memories, embedder.embed, lambda done: progress(f"{where}: baselines, {done} of {len(memories)} memories")
    )
    numbers = np.array([_number(memory["session"]) for memory in memories])
    for query in store["queries"]:
        allowed = numbers < _asked_after(query)
        for system, order in baselines.rank(query["text"], allowed).items():
            outcome.add(system, query, [memories[number]["key"] for number in order])


def _sessions(store: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The memories of each session, in the order of the sessions."""
    by_session: dict[str, list[dict[str, Any]]] = {}
    for memory in store["memories"]:
        by_session.setdefault(memory["session"], []).append(memory)
    yield from by_session.items()


def _number(session: str) -> int:
    found = re.search(r"\d+", session)
    return int(found[0]) if found else 0


def _asked_after(query: dict[str, Any]) -> float:
    """The number of the first session that the query must not know; infinite where it may know all."""
    return _number(query["as_of_session"]) if query.get("as_of_session") else float("inf")


def _turn(memory: dict[str, Any]) -> Turn:
    at = datetime.fromisoformat(memory["at"]).replace(tzinfo=UTC) if memory["at"] else None
    name = memory["name"] if memory["name"] not in ("", memory["role"]) else None
    return Turn(role=memory["role"], content=memory["content"], name=name, at=at)


def _as_plain(outcome: Outcome) -> dict[str, Any]:
    return {
        "systems": {system: tally.means() for system, tally in outcome.tallies.items()},
        "recall_ms_p50": round(median(outcome.recall_ms), 2),
        "nothing_relevant_of_answerable": outcome.nothing_relevant,
    }


def _as_text(name: str, outcome: Outcome) -> str:
    means = {system: tally.means() for system, tally in outcome.tallies.items()}
    rows = [(f"{name}: {system}", figures[OVERALL]) for system, figures in means.items()]
    rows += [(f"  {OURS}, {category}", figures) for category, figures in means[OURS].items() if category != OVERALL]
    notes = (
        f"recall p50 {median(outcome.recall_ms):.1f} ms; nothing relevant said of {outcome.nothing_relevant} answerable"
    )
    return f"{table(rows)}\n{notes}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Recall quality on public conversations, beside three baselines.")
    parser.add_argument("--set", choices=SETS, help="only this set")
    parser.add_argument("--stores", type=int, help="only the first N stores of each set, for a quick look")
    return parser.parse_args()


def say(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    print(text, flush=True)


def progress(text: str) -> None:
    """One line that is written over, where a person watches."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
