"""Kill the daemon again and again while assistants write through their bridges.

    python -m tests.memos_mcp.kill_rounds --rounds 50

What must come out: every acknowledged memory is there once, none twice, and no client saw more than a retryable error.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from memos_mcp import endpoint
from tests.memos_mcp.processes import Assistant, alive, daemon_gone_after, note, owner, stored_contents, until


@dataclass
class Outcome:
    """What the writers saw, and what was there at the end."""

    kills: int = 0
    acknowledged: list[str] = field(default_factory=list)
    errors: list[object] = field(default_factory=list)  # answers that were errors: each must be retryable
    not_added: list[object] = field(default_factory=list)  # acknowledged, but as something that was there before
    takeovers_s: list[float] = field(default_factory=list)
    stored: Counter[str] = field(default_factory=Counter)

    @property
    def lost(self) -> list[str]:
        return [text for text in self.acknowledged if not self.stored[text]]

    @property
    def twice(self) -> list[str]:
        return [text for text, count in self.stored.items() if count > 1]


class Writer:
    """An assistant that remembers one thing after another until it is told to stop."""

    def __init__(self, data: Path, number: int, outcome: Outcome) -> None:
        self.assistant = Assistant(data)
        self.number = number
        self.outcome = outcome
        self.stopping = False

    def run(self) -> None:
        self.assistant.start()
        count = 0
        while not self.stopping:
            count += 1
            self._remember(note("writer", self.number, count))

    def _remember(self, text: str) -> None:
        again = False
        while True:
            answer = self.assistant.ask("tools/call", name="remember", arguments={"content": text})
            if "error" not in answer:
                break
            self.outcome.errors.append(answer["error"])
            again = True
        (stored,) = answer["result"]["structuredContent"]["stored"]
        if stored["status"] != "added" and not again:
            self.outcome.not_added.append((text, stored))
        self.outcome.acknowledged.append(text)


def run(data: Path, rounds: int, writers: int, chance: random.Random) -> Outcome:
    outcome = Outcome()
    crew = [Writer(data, n, outcome) for n in range(writers)]
    with ThreadPoolExecutor(writers) as threads:
        running = [threads.submit(writer.run) for writer in crew]
        try:
            _kill_often(data, rounds, chance, outcome)
        finally:
            for writer in crew:
                writer.stopping = True
        for future in running:
            future.result()
    outcome.stored = Counter(stored_contents(data))
    for writer in crew:
        writer.assistant.close()
    return outcome


def _kill_often(data: Path, rounds: int, chance: random.Random, outcome: Outcome) -> None:
    until(lambda: outcome.acknowledged, "the first acknowledgement")
    for _ in range(rounds):
        moment = time.monotonic() + chance.uniform(0.0, 1.5)  # also while it starts, or takes over
        until(partial(_reached, moment), "the moment to kill")
        before = len(outcome.acknowledged)
        _kill(data)
        killed = time.monotonic()
        outcome.kills += 1
        if chance.random() < 0.7:
            until(partial(_more, outcome, before), "a takeover")
            outcome.takeovers_s.append(time.monotonic() - killed)


def _reached(moment: float) -> bool:
    return time.monotonic() >= moment


def _more(outcome: Outcome, before: int) -> bool:
    return len(outcome.acknowledged) > before


def _kill(data: Path) -> None:
    pid = until(lambda: endpoint.owner_pid(data) if endpoint.owned(data) else None, "an owner")
    if alive(pid):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), "the end of the killed daemon")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, daemon_gone_after(Path(folder) / "data") as data:
        outcome = run(data, options.rounds, options.writers, random.Random(options.seed))
        owner(data)
    retryable = all(e["data"]["retryable"] for e in outcome.errors)  # type: ignore[index]
    print(f"kills {outcome.kills}, acknowledged {len(outcome.acknowledged)}, stored {sum(outcome.stored.values())}")
    print(f"lost {len(outcome.lost)}, twice {len(outcome.twice)}, not added {len(outcome.not_added)}")
    print(f"errors {len(outcome.errors)}, all retryable: {retryable}")
    median, worst = statistics.median(outcome.takeovers_s), max(outcome.takeovers_s)
    print(f"from the kill to the next acknowledgement: median {median:.2f} s, worst {worst:.2f} s")
    return 0 if retryable and not (outcome.lost or outcome.twice or outcome.not_added) else 1


if __name__ == "__main__":
    sys.exit(main())
