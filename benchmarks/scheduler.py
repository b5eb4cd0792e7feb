"""How many of the memories that are needed next lie ready: prediction beside LRU, LFU and no prediction.

    python benchmarks/scheduler.py              generated logs, and the public sets where they are there (minutes)
    python benchmarks/scheduler.py --generated  only generated logs (a minute)
    python benchmarks/scheduler.py --quick      only short generated logs, each once (seconds)

The public sets lie in the folder that MEMOS_EVAL_DATA names (default: ../shared/data beside the project). Each log is
gone through in order of time. The first 60 % of its sessions only teach; on the others, before each turn, every policy
names what it holds ready within the same bytes, and what the turn needs is looked up in it. The model is fitted again
every twelve sessions, to what came before. `hits`: the share of the memories needed that lie ready; `prefill`: the
same in tokens, which is what is not computed again. Policies:

    prediction     the likeliest next (engine.scheduler.predict)
    unfitted       the same with the weights that it starts from
    LRU            the most recently used
    LRU + stored   the same, where storing a memory counts as a use
    LFU            the most often used
    none           what the session itself has used so far
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the daemon does: several threads spin between small products

from benchmarks.kv_plot import write
from benchmarks.session_logs import BYTES_PER_TOKEN, PEOPLE, SessionLog, from_set, generated, vectors_of
from engine.index.embedder import open_embedder
from engine.scheduler.predict import BELIEF, Predictor, fit
from engine.scheduler.scenes import Turn
from engine.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results")
SETS = ("realmem", "locomo")
SHARES = (0.05, 0.10, 0.20)  # of the bytes of all memories
TAUGHT = 0.6
FITTED_EVERY = 12
SEEDS = 2
QUICK_SESSIONS = 45
POLICIES = ("prediction", "unfitted", "LRU", "LRU + stored", "LFU", "none")


@dataclass
class Tally:
    """What one policy had ready."""

    hits: int = 0
    needed: int = 0
    hit_bytes: int = 0
    needed_bytes: int = 0

    def add(self, log: SessionLog, turn: Turn, ready: set[str]) -> None:
        for id in turn.used:
            size = log.shelf.items[log.shelf.place[id]].bytes
            self.needed, self.needed_bytes = self.needed + 1, self.needed_bytes + size
            if id in ready:
                self.hits, self.hit_bytes = self.hits + 1, self.hit_bytes + size

    @property
    def shown(self) -> dict[str, float]:
        return {
            "hits": 100 * self.hits / max(1, self.needed),
            "prefill": 100 * self.hit_bytes / max(1, self.needed_bytes),
        }


@dataclass
class Outcome:
    """What one set of logs gave."""

    tallies: defaultdict[tuple[float, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    turns: int = 0
    fit_ms: list[float] = field(default_factory=list)
    predict_ms: list[float] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        shares = sorted({share for share, _ in self.tallies})
        return {
            "turns": self.turns,
            "fit_ms": round(median(self.fit_ms), 1),
            "predict_ms": round(median(self.predict_ms), 2),
            "shares": {
                f"{share:.0%}": {name: self.tallies[(share, name)].shown for name in POLICIES} for share in shares
            },
        }


class Uses:
    """What LRU and LFU know."""

    def __init__(self, log: SessionLog) -> None:
        self.log = log
        self.last: dict[str, tuple[float, int]] = {}
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.session: tuple[str, list[str]] = ("", [])
        self.number = 0

    def begin(self, session: str) -> None:
        if self.session[0] != session:
            self.session = (session, [])

    def learn(self, turn: Turn) -> None:
        for id in turn.used:
            self.number += 1
            self.last[id] = (turn.at.timestamp(), self.number)
            self.counts[id] += 1
            self.session[1].append(id)

    def orders(self, turn: Turn) -> dict[str, list[str]]:
        """What each policy would hold, first what it would hold last."""
        last = self.last
        stored = {
            item.id: (item.created_at.timestamp(), 0) for item in self.log.shelf.items if item.created_at <= turn.at
        }
        touched = {id: max(last.get(id, at), at) for id, at in stored.items()}
        return {
            "LRU": sorted(last, key=lambda id: last[id], reverse=True),
            "LRU + stored": sorted(touched, key=lambda id: touched[id], reverse=True),
            "LFU": sorted(last, key=lambda id: (self.counts[id], last[id]), reverse=True),
            "none": list(dict.fromkeys(reversed(self.session[1]))),
        }


def filled(log: SessionLog, order: Iterable[str], budget_bytes: int) -> set[str]:
    ready = set()
    for id in order:
        size = log.shelf.items[log.shelf.place[id]].bytes
        if size <= budget_bytes:
            ready.add(id)
            budget_bytes -= size
    return ready


def replay(log: SessionLog, outcome: Outcome) -> None:
    """Go through a log, and note what each policy had ready on the sessions that are held out."""
    number = {session: count for count, session in enumerate(log.sessions)}
    held_out = int(len(number) * TAUGHT)
    predictors = {"prediction": Predictor(log.shelf), "unfitted": Predictor(log.shelf)}
    uses = Uses(log)
    fit_at = held_out
    for count, turn in enumerate(log.turns):
        for follower in (uses, *predictors.values()):
            follower.begin(turn.session)
        if number[turn.session] >= held_out:
            if number[turn.session] >= fit_at:
                began = time.perf_counter()
                past = [other for other in log.turns[:count] if other.session != turn.session]
                predictors["prediction"].model = fit(log.shelf, past, start=BELIEF)
                outcome.fit_ms.append(1_000 * (time.perf_counter() - began))
                fit_at = number[turn.session] + FITTED_EVERY
            orders = uses.orders(turn)
            for name, predictor in predictors.items():
                began = time.perf_counter()
                orders[name] = [one.id for one in predictor.expected(turn.at)]
                outcome.predict_ms.append(1_000 * (time.perf_counter() - began))
            outcome.turns += 1
            for name, order in orders.items():
                for share in SHARES:
                    outcome.tallies[(share, name)].add(log, turn, filled(log, order, int(log.bytes * share)))
        for follower in (uses, *predictors.values()):
            follower.learn(turn)


def table(name: str, outcome: Outcome) -> str:
    """Figures as text: hits, and how many times those of LRU."""
    lines = [
        f"{name}: {outcome.turns} turns held out; fitted in {median(outcome.fit_ms):.0f} ms, "
        f"predicted in {median(outcome.predict_ms):.1f} ms",
        f"{'':16}" + "".join(f"{f'{share:.0%} of bytes':>28}" for share in SHARES),
        f"{'':16}" + f"{'hits':>10}{'× LRU':>9}{'prefill':>9}" * len(SHARES),
    ]
    for policy in POLICIES:
        cells = ""
        for share in SHARES:
            tally, lru = outcome.tallies[(share, policy)], outcome.tallies[(share, "LRU")]
            times = f"{tally.hits / lru.hits:.2f}" if lru.hits else "–"
            cells += f"{tally.shown['hits']:10.1f}{times:>9}{tally.shown['prefill']:9.1f}"
        lines.append(f"{policy:16}{cells}")
    return "\n".join(lines)


def saved(outcome: Outcome) -> str:
    """Tokens that a turn need not prefill, at the middle share."""
    share = SHARES[1]
    shown = ", ".join(
        f"{name} {outcome.tallies[(share, name)].hit_bytes / BYTES_PER_TOKEN / max(1, outcome.turns):.0f}"
        for name in POLICIES
    )
    return f"tokens of prefill saved a turn at {share:.0%}: {shown}"


def logs(folder: Path, wanted: Sequence[str], scratch: Path) -> Iterator[tuple[str, list[SessionLog]]]:
    for person in PEOPLE:
        yield f"generated: {person.name}", [generated(person, seed) for seed in range(SEEDS)]
    found = [name for name in wanted if (folder / f"{name}.json").exists()]
    if not found:
        return
    embedder = open_embedder(Settings(data=scratch, offline=True), say)
    for name in found:
        stores = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["stores"]
        embedded = [vectors_of(store, embedder.embed) for store in stores]
        yield name, [from_set(store, vectors) for store, vectors in zip(stores, embedded, strict=True)]
        if not any("as_of_session" in query for store in stores for query in store["queries"]):
            mixed = [from_set(store, vectors, shuffled=True) for store, vectors in zip(stores, embedded, strict=True)]
            yield f"{name}, shuffled", mixed


def short_logs() -> Iterator[tuple[str, list[SessionLog]]]:
    for person in PEOPLE:
        yield f"generated: {person.name}", [generated(person, sessions=QUICK_SESSIONS)]


def draw(report: dict[str, Any], path: Path) -> None:
    """Hits over bytes, a panel for each set; of the generated logs only where there is no other."""
    shown = [name for name in report if not name.startswith("generated")] or list(report)
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name in shown:
        panels[name] = {policy: [] for policy in POLICIES}
        for share, figures in report[name]["shares"].items():
            for policy in POLICIES:
                if figures[policy]["hits"] > 0:  # the axes are logarithmic
                    panels[name][policy].append((float(share.rstrip("%")), figures[policy]["hits"]))
    write(path, panels, "% of the bytes of all memories", "% of the memories needed that lie ready")


def main() -> int:
    parser = argparse.ArgumentParser(description="What lies ready before it is needed, beside LRU and LFU.")
    parser.add_argument("--generated", action="store_true", help="only generated logs")
    parser.add_argument("--quick", action="store_true", help="only short generated logs")
    parser.add_argument("--json", type=Path, default=RESULTS / "scheduler.json", help="where the figures go")
    parser.add_argument("--plot", type=Path, help="where the picture goes (default: beside the figures)")
    options = parser.parse_args()
    folder = Path(os.environ.get("MEMOS_EVAL_DATA") or ROOT.parent / "shared" / "data")
    report = {}
    with tempfile.TemporaryDirectory(prefix="memos-scheduler-") as scratch:
        found = short_logs() if options.quick else logs(folder, () if options.generated else SETS, Path(scratch))
        for name, some in found:
            outcome = Outcome()
            for log in some:
                replay(log, outcome)
            report[name] = outcome.plain()
            say(f"{table(name, outcome)}\n{saved(outcome)}\n")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    draw(report, options.plot or options.json.with_suffix(".svg"))
    return 0


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
