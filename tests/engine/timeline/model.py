"""A store as plain Python: the whole state of one cube is kept after every step, and everything is looked up in that.

It knows the rules from the documentation, not from the engine: what each step does to states, ends, and fusions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

LIVE = frozenset({"generated", "activated"})


@dataclass(frozen=True)
class Plain:
    """A memory as it is at one moment."""

    content: str
    state: str = "generated"
    ends: datetime | None = None
    pinned: bool = False
    frozen: bool = False
    version: int = 1

    def lives(self, at: datetime) -> bool:
        return self.state in LIVE and not self.over(at)

    def over(self, at: datetime) -> bool:
        return self.ends is not None and self.ends <= at

    @property
    def told(self) -> tuple[object, ...]:
        """What a version says, whatever its number; first use is no difference."""
        return (self.content, "live" if self.state in LIVE else self.state, self.ends, self.pinned, self.frozen)

    def told_at(self, at: datetime) -> tuple[object, ...]:
        return replace(self, state="expired").told if self.over(at) else self.told


State = dict[str, Plain]


@dataclass
class Model:
    now: State = field(default_factory=dict)
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)  # fused memory -> its parents
    moments: list[tuple[datetime, State]] = field(default_factory=list)
    versions: dict[str, dict[int, Plain]] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    snapshots: dict[str, tuple[datetime, State]] = field(default_factory=dict)

    def keep(self, at: datetime) -> None:
        """The step is over: keep the whole state under this moment."""
        self.moments.append((at, dict(self.now)))

    def add(self, id: str, content: str, ends: datetime | None = None, **more: bool) -> None:
        self.now[id] = Plain(content, ends=ends, **more)
        self.versions[id] = {1: self.now[id]}

    def change(self, id: str, **what: object) -> None:
        """The next version of a memory."""
        self.now[id] = replace(self.now[id], **what, version=self.now[id].version + 1)  # type: ignore[arg-type]
        self.versions[id][self.now[id].version] = self.now[id]

    def used(self, id: str) -> None:
        """First use changes no version, but the one that there is."""
        self.now[id] = replace(self.now[id], state="activated")
        self.versions[id][self.now[id].version] = self.now[id]

    # --- lookups -----------------------------------------------------------------------------------------------

    def at(self, place: int) -> State:
        """The state after a step, without what was erased since."""
        return self.without_erased(self.moments[place][1])

    def without_erased(self, state: State) -> State:
        return {id: memory for id, memory in state.items() if id not in self.erased}

    def fused_from(self, id: str) -> set[str]:
        """What was fused from a memory, directly."""
        return {fused for fused, parents in self.parents.items() if id in parents and fused in self.now}

    def above(self, id: str) -> set[str]:
        found: set[str] = set()
        waiting = [id]
        while waiting:
            fresh = self.fused_from(waiting.pop()) - found
            found |= fresh
            waiting += fresh
        return found

    def held(self, id: str, state: Mapping[str, Plain]) -> bool:
        return any(state[fused].state in LIVE | {"merged"} for fused in self.fused_from(id) if fused in state)

    # --- steps -------------------------------------------------------------------------------------------------

    def sweep(self, at: datetime) -> None:
        for id, memory in self.now.items():
            if memory.over(at) and memory.state != "expired" and not memory.frozen:
                self.change(id, state="expired")

    def fuse(self, id: str, content: str, ids: tuple[str, ...]) -> None:
        ends = [self.now[parent].ends for parent in ids]
        known = [end for end in ends if end is not None]
        latest = max(known) if len(known) == len(ends) else None
        self.add(id, content, latest, pinned=any(self.now[parent].pinned for parent in ids))
        self.parents[id] = ids
        for parent in ids:
            self.change(parent, state="merged")

    def restore(self, id: str, version: int) -> None:
        then, current = self.versions[id][version], self.now[id]
        state = then.state if then.state in LIVE else current.state if current.state in LIVE else "activated"
        wanted = replace(then, state=state, version=current.version)
        if wanted == current:
            return
        undone = {fused for fused in self.above(id) if self.now[fused].state in LIVE | {"merged"}}
        self.change(id, content=then.content, state=state, ends=then.ends, pinned=then.pinned, frozen=then.frozen)
        if current.state != "merged":
            return
        freed = {parent for fused in undone for parent in self.parents[fused] if parent in self.now} - undone - {id}
        for fused in undone:
            self.change(fused, state="archived")
        for parent in sorted(freed):
            if self.now[parent].state == "merged" and not self.held(parent, self.now):
                self.change(parent, state="activated")

    def what_restoring_touches(self, id: str) -> set[str]:
        """Everything whose freezing refuses a restore."""
        if self.now[id].state != "merged":
            return {id}
        undone = {fused for fused in self.above(id) if self.now[fused].state in LIVE | {"merged"}}
        freed = {
            parent
            for fused in undone
            for parent in self.parents[fused]
            if parent in self.now and self.now[parent].state == "merged"
        }
        return {id} | undone | freed

    def erasure(self, id: str) -> set[str]:
        """What goes with a memory: what it was fused from, and all that was fused from any of that."""
        gone = {id, *(parent for parent in self.parents.get(id, ()) if parent in self.now)}
        for one in list(gone):
            gone |= self.above(one)
        return gone

    def erase(self, gone: Iterable[str]) -> None:
        gone = set(gone)
        parents = {parent for fused in gone for parent in self.parents.get(fused, ())} - gone
        for id in gone:
            del self.now[id]
            del self.versions[id]
        self.erased |= gone
        for id in sorted(parents & set(self.now)):
            memory = self.now[id]
            held = any(self.now[fused].state in LIVE for fused in self.fused_from(id))
            if memory.state == "merged" and not memory.frozen and not held:
                self.change(id, state="activated")

    def rollback(self, then: State, at: datetime) -> None:
        """The cube says again what it said then, but for what is frozen, erased, or has come to its end since."""
        wanted: State = {}
        for id, memory in self.now.items():
            was = then.get(id)
            if was is None:
                if memory.lives(at):
                    wanted[id] = replace(memory, state="archived")
            elif was.version != memory.version:
                state = was.state
                if state in LIVE:
                    state = "expired" if was.over(at) else memory.state if memory.state in LIVE else state
                wanted[id] = replace(was, state=state)
        wanted = {id: memory for id, memory in wanted.items() if not self.now[id].frozen}
        merging = {id for id, memory in wanted.items() if memory.state == "merged" and self.now[id].state != "merged"}
        while unheld := {id for id in merging if not self.held(id, {**self.now, **wanted})}:
            merging -= unheld
            for id in unheld:
                state = self.now[id].state
                state = state if state in LIVE else "expired" if wanted[id].over(at) else "activated"
                wanted[id] = replace(wanted[id], state=state)
        for id, memory in wanted.items():
            if replace(memory, version=self.now[id].version) != self.now[id]:
                self.change(
                    id,
                    content=memory.content,
                    state=memory.state,
                    ends=memory.ends,
                    pinned=memory.pinned,
                    frozen=memory.frozen,
                )

    # --- differences -------------------------------------------------------------------------------------------

    def diff(self, one: int, other: int) -> tuple[set[str], set[str], set[str]]:
        """Added, removed, changed between two moments."""
        (before_at, _), (after_at, _) = self.moments[one], self.moments[other]
        before, after = self.at(one), self.at(other)
        lived = {id for id, memory in before.items() if memory.lives(before_at)}
        living = {id for id, memory in after.items() if memory.lives(after_at)}
        changed = {
            id
            for id in before.keys() & after.keys()
            if (id in lived) == (id in living) and before[id].told_at(before_at) != after[id].told_at(after_at)
        }
        return living - lived, lived - living, changed
