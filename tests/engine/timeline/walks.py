"""Random walks through a real store and the plain model beside it.

    python -m tests.engine.timeline.walks --walks 1000

Each walk has a cube of its own. After it, every moment of its past is asked for again, and two of them are compared.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from engine.errors import MemosError
from engine.memos import MemOS
from engine.operations import Forget, Fuse, Mode, Recall, Remember, Status
from engine.parts import content_key
from engine.settings import Settings
from engine.vault import Transaction, audit_log
from tests.conftest import HandClock
from tests.engine.stores import ME, settings_for
from tests.engine.timeline.model import LIVE, Model, Plain

WORDS = ("anchor", "barrel", "candle", "dagger", "engine", "feather", "garden", "hammer", "island", "jacket", "kettle")
STEPS_OF_A_WALK = 16
WALKS_OF_A_STORE = 20
LITTLE = timedelta(milliseconds=1)  # after a step, and before the next one


@dataclass
class Walk:
    """One walk in one cube of a store that others walk in as well."""

    open: Callable[[], MemOS]
    memos: MemOS
    clock: HandClock
    chance: random.Random
    cube: str
    model: Model = field(default_factory=Model)
    done: Counter[str] = field(default_factory=Counter)
    count: int = 0

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.clock.pass_by(seconds=self.chance.choice([1, 60, 3600, 30_000]))
            step = self.chance.choice(STEPS)
            if step(self):
                self.done[step.__name__] += 1
            self.model.keep(self.clock.now() + LITTLE)

    # --- choosing ----------------------------------------------------------------------------------------------

    def some(self, wanted: Callable[[str, Plain], bool] = lambda id, memory: True) -> str | None:
        found = [id for id, memory in self.model.now.items() if wanted(id, memory)]
        return self.chance.choice(found) if found else None

    def changeable(self, id: str, memory: Plain) -> bool:
        return not memory.frozen and memory.lives(self.clock.now())

    def ends(self) -> float | None:
        return self.chance.choice([None, None, 0.02, 0.3])

    def end(self, days: float | None) -> datetime | None:
        """When what is stored now comes to its end: the vault's own time of the transaction counts."""
        return None if days is None else self.now() + timedelta(days=days)

    def now(self) -> datetime:
        """The time of the last transaction."""
        at = self.memos._parts.vault.head.at
        assert at is not None
        return at

    def text(self) -> str:
        self.count += 1
        return f"The {self.chance.choice(WORDS)} of {self.cube} has number {self.count}."

    # --- steps -------------------------------------------------------------------------------------------------

    def remember(self) -> bool:
        text, days = self.text(), self.ends()
        (stored,) = self.memos.remember(Remember(content=text, cube=self.cube, expires_in_days=days), ME).stored
        assert stored.status in (Status.ADDED, Status.CONFLICT)
        self.model.add(stored.id, text, self.end(days))
        return True

    def repeat(self) -> bool:
        """Say again what is known: it lasts as long as the longer of both."""
        id = self.some(lambda id, memory: memory.lives(self.clock.now()))
        if id is None or self.alike(self.model.now[id]) > 1:
            return False
        memory, days = self.model.now[id], self.ends()
        (stored,) = self.memos.remember(
            Remember(content=memory.content, cube=self.cube, expires_in_days=days), ME
        ).stored
        assert (stored.id, stored.status) == (id, Status.DUPLICATE)
        if memory.ends is not None and not memory.frozen:
            until = self.end(days)
            if until is None or until > memory.ends:
                self.model.change(id, ends=until)
        return True

    def alike(self, one: Plain) -> int:
        return sum(
            memory.content == one.content and memory.lives(self.clock.now()) for memory in self.model.now.values()
        )

    def supersede(self) -> bool:
        id = self.some(lambda id, memory: not memory.frozen and memory.state in LIVE)
        if id is None:
            return False
        text = self.text()
        request = Remember(content=text, cube=self.cube, supersedes=(id,))
        (stored,) = self.memos.remember(request, ME).stored
        assert stored.status is Status.SUPERSEDING
        self.model.add(stored.id, text)
        self.model.change(id, state="archived")
        return True

    def archive(self) -> bool:
        id = self.some(lambda id, memory: not memory.frozen and memory.state in LIVE)
        if id is None:
            return False
        self.memos.forget(Forget(ids=(id,)), ME)
        self.model.change(id, state="archived")
        return True

    def erase(self) -> bool:
        id = self.some()
        if id is None or self.chance.random() < 0.6:
            return False
        gone = self.model.erasure(id)
        request = Forget(ids=(id,), mode=Mode.ERASE, confirmed=True)
        if any(self.model.now[one].frozen for one in gone):
            return self.refused(lambda: self.memos.forget(request, ME), "Frozen")
        forgotten = {item.id for item in self.memos.forget(request, ME).forgotten}
        assert forgotten == gone
        self.model.erase(gone)
        return True

    def fuse(self) -> bool:
        able = [id for id, memory in self.model.now.items() if self.changeable(id, memory)]
        if len(able) < 2:
            return False
        ids = tuple(self.chance.sample(able, min(len(able), self.chance.choice([2, 2, 3]))))
        text = self.text()
        fused = self.memos.fuse(Fuse(ids=ids, content=text), ME)
        self.model.fuse(str(fused.id), text, ids)
        return True

    def restore(self) -> bool:
        id = self.some()
        if id is None:
            return False
        version = self.chance.choice(list(self.model.versions[id]))
        act = lambda: self.memos.restore(id, version, ME)  # noqa: E731 - refused or carried out
        if self.model.now[id].frozen:
            return self.refused(act, "Frozen")
        if self.model.versions[id][version].over(self.clock.now()):
            return self.refused(act, "Expired")
        if any(self.model.now[one].frozen for one in self.model.what_restoring_touches(id)):
            return self.refused(act, "Frozen")
        act()
        self.model.restore(id, version)
        return True

    def edit(self) -> bool:
        """What a watched folder or an upgraded bundle does: other words under the same id."""
        id = self.some(self.changeable)
        if id is None:
            return False
        text, parts = self.text(), self.memos._parts

        def job(transaction: Transaction) -> None:
            old = transaction.records([id])[id]
            revision = transaction.audit("edit", self.cube, [id])
            key = content_key(parts.vault, text)
            transaction.revise(replace(old, content_key=key), replace(old.memory, content=text), "edit", revision)

        parts.vault.write(job, ME)
        self.model.change(id, content=text)
        return True

    def govern(self) -> bool:
        id = self.some()
        if id is None:
            return False
        memory = self.model.now[id]
        pinned, frozen = self.chance.choice([True, False]), self.chance.random() < 0.3
        if (pinned, frozen) == (memory.pinned, memory.frozen):
            return False

        def job(transaction: Transaction) -> None:
            old = transaction.records([id])[id]
            rules = replace(old.memory.governance, pinned=pinned, frozen=frozen)
            revision = transaction.audit("govern", self.cube, [id])
            transaction.revise(old, replace(old.memory, governance=rules), "govern", revision)

        self.memos._parts.vault.write(job, ME)
        self.model.change(id, pinned=pinned, frozen=frozen)
        return True

    def use(self) -> bool:
        """First use activates in place, at the next sweep."""
        id = self.some(self.changeable)
        if id is None:
            return False
        found = self.memos.recall(Recall(query=self.model.now[id].content, cubes=(self.cube,), limit=1), ME)
        used = [item.memory.id for item in found.memories]
        self.sweep()
        for one in used:
            if not self.model.now[one].frozen and self.model.now[one].state == "generated":
                self.model.used(one)
        return bool(used)

    def sweep(self) -> bool:
        at = self.clock.now()
        self.memos.sweep()
        self.model.sweep(at)
        return True

    def take_snapshot(self) -> bool:
        name = f"moment {len(self.model.snapshots)}"
        if not self.has_cube():
            return False
        self.memos.snapshot(self.cube, name, ME)
        self.model.snapshots[name] = (self.now(), dict(self.model.now))
        return True

    def has_cube(self) -> bool:
        """The first memory makes it."""
        return self.count > 0

    def rollback(self) -> bool:
        if not self.has_cube() or not self.model.moments:
            return False
        if self.model.snapshots and self.chance.random() < 0.5:
            to, (_, then) = self.chance.choice(list(self.model.snapshots.items()))
        else:
            at, then = self.chance.choice(self.model.moments)
            to = at.isoformat()
        before, then = dict(self.model.now), self.model.without_erased(then)
        foreseen = self.memos.rollback(self.cube, to, ME, dry_run=True)
        done = self.memos.rollback(self.cube, to, ME, "a walk")
        assert (foreseen.restored, foreseen.archived, foreseen.kept) == (done.restored, done.archived, done.kept)
        at = self.now() if done.before else self.clock.now()
        self.model.rollback(then, at)
        changed = {id for id, memory in self.model.now.items() if memory.version != before[id].version}
        assert {*done.restored, *done.archived, *done.expired} == changed
        if done.before:
            self.model.snapshots[done.before] = (at - timedelta(microseconds=1), before)
        return True

    def reopen(self) -> bool:
        if self.chance.random() < 0.7:
            return False
        self.memos.close()
        self.memos = self.open()
        return True

    def refused(self, act: Callable[[], object], code: str) -> bool:
        with pytest.raises(MemosError) as refusal:
            act()
        assert refusal.value.code == code, str(refusal.value)
        return False

    # --- what must hold ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Every moment of the past, every snapshot, and what differs between moments."""
        places = range(len(self.model.moments))
        for place in places:
            at = self.model.moments[place][0]
            self.check_state(at.isoformat(), self.model.at(place), at, f"after step {place}")
        for name, (at, state) in self.model.snapshots.items():
            self.check_state(name, self.model.without_erased(state), at, f"snapshot {name}")
        if not self.has_cube():
            return
        for _ in range(4):
            one, other = self.chance.choice(places), self.chance.choice(places)
            named = [self.model.moments[place][0].isoformat() for place in (one, other)]
            diff = self.memos.diff_cube(self.cube, named[0], named[1], ME)
            found = (set(diff.added), set(diff.removed), {changed.id for changed in diff.changed})
            assert found == self.model.diff(one, other), f"{self.cube}: {one} to {other}"

    def check_state(self, moment: str, expected: dict[str, Plain], at: datetime, what: str) -> None:
        if not self.has_cube():
            assert not expected
            return
        found = {memory.id: memory for memory in self.memos.memories_as_of(self.cube, moment, ME)}
        assert found.keys() == expected.keys(), f"{self.cube}, {what}"
        for id, memory in found.items():
            rules = memory.governance
            said = Plain(
                memory.content, memory.state.value, rules.expires_at, rules.pinned, rules.frozen, memory.version
            )
            assert (said.version, *said.told) == (expected[id].version, *expected[id].told), f"{self.cube}, {what}"
            assert said.lives(at) == expected[id].lives(at)


STEPS: list[Callable[[Walk], bool]] = [
    *[Walk.remember] * 6,
    *[Walk.archive, Walk.supersede, Walk.fuse, Walk.restore, Walk.edit, Walk.rollback] * 2,
    *[Walk.repeat, Walk.erase, Walk.govern, Walk.use, Walk.sweep, Walk.take_snapshot, Walk.reopen],
]


@contextmanager
def walking(settings: Settings, clock: HandClock, seed: int) -> Iterator[Callable[[int], Counter[str]]]:
    """A store to walk in: what is given makes one walk after the other and says what was done."""
    memos = [MemOS.open(settings, clock=clock)]

    def reopened() -> MemOS:
        memos[0] = MemOS.open(settings, clock=clock)
        return memos[0]

    def walk(number: int) -> Counter[str]:
        chance = random.Random(f"{seed}/{number}")
        one = Walk(reopened, memos[0], clock, chance, f"walk {number}")
        one.run(STEPS_OF_A_WALK)
        one.check()
        return one.done

    try:
        yield walk
        with memos[0]._parts.vault.reading() as connection:
            assert audit_log.audit_problems(connection) == []
        assert memos[0].verify(ME) == ()
    finally:
        memos[0].close()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--walks", type=int, default=1000)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    started, done = time.monotonic(), Counter[str]()
    for start in range(0, given.walks, WALKS_OF_A_STORE):
        with (
            tempfile.TemporaryDirectory() as folder,
            walking(settings_for(Path(folder) / "data"), HandClock(), given.seed) as walk,
        ):
            for number in range(start, min(start + WALKS_OF_A_STORE, given.walks)):
                done += walk(number)
    print(f"{given.walks} walks in {time.monotonic() - started:.0f} s: {dict(done)}")


if __name__ == "__main__":
    main()
