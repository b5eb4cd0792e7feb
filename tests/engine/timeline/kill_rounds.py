"""Kill a process in the middle of a rollback, again and again, and look at what is left.

    python -m tests.engine.timeline.kill_rounds --rounds 20

What must come out: the cube says wholly what it said before, or wholly what it said then, and nothing is lost.
"""

from __future__ import annotations

import argparse
import random
import signal
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from engine.settings import Settings
from engine.vault import Transaction
from tests.engine.stores import ME, opened, run_python, settings_for

MEMORIES = 400
ROLLBACK = """
import sys
from itertools import cycle
from pathlib import Path
from engine.memos import MemOS
from engine.operations import Caller
from engine.settings import Settings

def tell(done, total, message):
    if message == "rolling back":
        print("now", flush=True)

with MemOS.open(Settings(data=Path(sys.argv[1]), embedder="none", offline=True, backup_every_h=0)) as memos:
    for name in cycle(("then", "later")):  # there and back again, until it is killed
        memos.rollback("default", name, Caller(), progress=tell)
"""


def prepare(settings: Settings, memories: int = MEMORIES) -> None:
    """A cube whose memories all say something else at its snapshots `then` and `later`."""
    with opened(settings) as memos:
        records = [{"content": f"Lamp number {n} is red.", "cube": "default"} for n in range(memories)]
        assert memos.import_memories(records, ME).added == memories
        memos.snapshot("default", "then", ME)

        def change(transaction: Transaction) -> None:
            found = transaction.records(row[0] for row in transaction.rows("SELECT id FROM memories"))
            revision = transaction.audit("edit", "default", list(found))
            told = [(old, replace(old.memory, content=f"{old.memory.content} It burns.")) for old in found.values()]
            transaction.revise_all(told, "edit", revision)

        memos._parts.vault.write(change, ME)
        memos.snapshot("default", "later", ME)


def one_round(settings: Settings, delay_s: float) -> str:
    """Kill a process so long after its first rollback began; which state is left, and that it is a whole one."""
    process = run_python(ROLLBACK, str(settings.data))
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended by itself"
    process.stdout.close()
    with opened(settings) as memos:
        contents = {memory.content.endswith("burns.") for memory in memos.memories_as_of("default", "now", ME)}
        count = len(memos.memories_as_of("default", "now", ME))
        assert len(contents) == 1, "the cube is half rolled back"
        assert count == len(memos.memories_as_of("default", "then", ME))
        assert memos.verify(ME) == ()
        made = [found.name for found in memos.snapshots("default", ME) if found.name not in ("then", "later")]
        versions = {memory.version for memory in memos.memories_as_of("default", "now", ME)}
        assert versions == {2 + len(made)}, "each rollback made one version of each memory, and one snapshot"
    return "later" if contents == {True} else "then"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--rounds", type=int, default=20)
    given = arguments.parse_args()
    chance, seen = random.Random(0), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_for(Path(folder) / "data")
        prepare(settings)
        for _ in range(given.rounds):
            seen[one_round(settings, chance.random() * 1.5)] += 1
    print(f"{given.rounds} kills: {dict(seen)}")


if __name__ == "__main__":
    main()
