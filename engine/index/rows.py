"""What an index knows of each memory besides its words and vectors: parallel arrays, one row a memory.

Filters are masks over these arrays, and neighbours and the order of sessions are links between rows; nothing here runs
Python for each candidate. Content is not kept, only what was read off it once: whether it names a time, and how many
words of change it has. Rows are given back when a memory leaves and used again; no name (id, session, speaker, tag)
stays behind in memory or on disk when its last memory has left. Not thread-safe: the owner's lock sees to that.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cubes import KINDS, Kind, Mention, Sensitivity, State
from engine.index.names import Names

STATES = tuple(State)
SENSITIVITIES = tuple(Sensitivity)  # least first
NEVER = np.iinfo(np.int64).max
SMALLEST = 64
ASSISTANT_ROLES = frozenset({"assistant", "system", "tool", "function"})
CUES_FROM_CHARS = 600  # what changed is said in the beginning; later words are about other things

CHANGE = re.compile(
    r"\b(?:now|no longer|any ?more|instead|actually|recent(?:ly)?|new(?:er|est)?|latest|updat\w*|chang\w*|switch\w*"
    r"|mov(?:ed|ing)|reschedul\w*|postpon\w*|delay\w*|push(?:ed)? back|extend\w*|increas\w*|decreas\w*|rais(?:ed|ing)"
    r"|lower(?:ed)?|reduc\w*|improv\w*|adjust\w*|revis\w*|replac\w*|upgrad\w*|grew|grown|reach\w*|correct(?:ed|ion)"
    r"|total of|(?:up|down) (?:to|from)|went (?:up|down)|already|so far)\b",
    re.IGNORECASE,
)
"""Words in which people say that something is no longer as it was."""

Flags = NDArray[np.bool_]
Times = NDArray[np.int64]
Seen = frozenset[Sensitivity] | None  # how sensitive memories may be that somebody sees; None: any

COLUMNS: dict[str, tuple[type, int]] = {
    "label": (np.int64, -1),  # -1: the row is free
    "kind": (np.int8, 0),
    "state": (np.int8, 0),
    "sensitivity": (np.int8, 0),
    "event": (np.int64, 0),  # microseconds: when it happened, else when it was stored
    "expires": (np.int64, NEVER),
    "session": (np.int32, -1),
    "position": (np.int32, -1),
    "actor": (np.int32, -1),
    "assistant": (np.bool_, False),
    "timed": (np.bool_, False),  # it names a time
    "changes": (np.int8, 0),  # different words of change in it
    "passages": (np.int16, 0),  # vectors of it
    "previous": (np.int32, -1),  # row of the turn before
    "following": (np.int32, -1),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A memory as an index sees it; `label` is the vault's number of it, which never changes."""

    label: int
    id: str
    kind: Kind
    state: State
    tags: tuple[str, ...]
    created_at: datetime
    occurred_at: datetime | None
    expires_at: datetime | None
    mentions: tuple[Mention, ...]
    actor: str | None
    role: str | None
    session: str | None
    position: int | None
    content: str
    sensitivity: Sensitivity = Sensitivity.NORMAL


@dataclass(frozen=True, slots=True)
class Filter:
    """Which memories may be found. Empty means any; `now` None lets expired ones pass."""

    kinds: tuple[Kind, ...] = ()
    tags: tuple[str, ...] = ()
    states: tuple[State, ...] = ()
    now: datetime | None = None
    after: datetime | None = None
    before: datetime | None = None


class Rows:
    """The columns of one cube."""

    def __init__(self) -> None:
        self.columns: dict[str, NDArray[Any]] = {
            name: np.full(SMALLEST, default, dtype) for name, (dtype, default) in COLUMNS.items()
        }
        self.ids: list[str | None] = []
        self.row_of: dict[int, int] = {}  # label -> row
        self._free: list[int] = []
        self.sessions, self.actors, self.tags = Names(), Names(), Names()
        self._tags_of: dict[int, tuple[int, ...]] = {}  # row -> codes
        self._tagged: dict[int, set[int]] = {}  # code -> rows
        self._turns: dict[tuple[int, int], list[tuple[int, int]]] = {}  # (session, position) -> (label, row), ascending
        self._mentions: dict[int, tuple[tuple[int, int], ...]] = {}  # row -> (start, end)
        self._intervals: NDArray[np.int64] | None = None  # [mentions, (row, start, end)]; None: to be made
        self._moments: Times | None = None  # by session code; None: to be made

    def __len__(self) -> int:
        return len(self.row_of)

    @property
    def size(self) -> int:
        """Rows ever given out: arrays are meaningful up to here."""
        return len(self.ids)

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self.columns[column][: self.size]

    # --- keeping -----------------------------------------------------------------------------------------------

    def put(self, entry: Entry, passages: int) -> int:
        """Add or replace a memory; its row."""
        self.drop(entry.label)
        row = self._claim(entry)
        event = entry.occurred_at or entry.created_at
        session = entry.session if entry.session is not None else f"\0{event:%Y-%m-%d}"  # without one: a day is one
        actor = entry.actor if entry.actor is not None and entry.actor != entry.role else None
        values = {
            "label": entry.label,
            "kind": KINDS.index(entry.kind),
            "state": STATES.index(entry.state),
            "sensitivity": SENSITIVITIES.index(entry.sensitivity),
            "event": microseconds(event),
            "expires": NEVER if entry.expires_at is None else microseconds(entry.expires_at),
            "session": self.sessions.take(session),
            "position": -1 if entry.session is None or entry.position is None else entry.position,
            "actor": -1 if actor is None else self.actors.take(actor),
            "assistant": entry.role in ASSISTANT_ROLES,
            "timed": bool(entry.mentions),
            "changes": min(127, len({word.lower() for word in CHANGE.findall(entry.content[:CUES_FROM_CHARS])})),
            "passages": passages,
        }
        for name, value in values.items():
            self.columns[name][row] = value
        self._tag(row, tuple(self.tags.take(tag) for tag in dict.fromkeys(entry.tags)))
        if entry.mentions:
            self._mentions[row] = tuple((microseconds(m.start), microseconds(m.end)) for m in entry.mentions)
            self._intervals = None
        self._moments = None
        self._link(row)
        return row

    def drop(self, label: int) -> int | None:
        """Take a memory out; the row it had."""
        row = self.row_of.pop(label, None)
        if row is None:
            return None
        self._unlink(row, label)
        self.sessions.give_back(int(self.columns["session"][row]))
        if self.columns["actor"][row] >= 0:
            self.actors.give_back(int(self.columns["actor"][row]))
        for code in self._tags_of.pop(row, ()):
            self._tagged[code].discard(row)
            if not self._tagged[code]:
                del self._tagged[code]
            self.tags.give_back(code)
        if self._mentions.pop(row, None):
            self._intervals = None
        for name, (_, default) in COLUMNS.items():
            self.columns[name][row] = default
        self.ids[row] = None
        self._free.append(row)
        self._moments = None
        return row

    def _claim(self, entry: Entry) -> int:
        if self._free:
            row = self._free.pop()
            self.ids[row] = entry.id
        else:
            row = len(self.ids)
            self.ids.append(entry.id)
            if row >= len(self.columns["label"]):
                for name, (dtype, default) in COLUMNS.items():
                    grown: NDArray[Any] = np.full(max(SMALLEST, 2 * row), default, dtype)
                    grown[:row] = self.columns[name]
                    self.columns[name] = grown
        self.row_of[entry.label] = row
        return row

    def _tag(self, row: int, codes: tuple[int, ...]) -> None:
        if codes:
            self._tags_of[row] = codes
        for code in codes:
            self._tagged.setdefault(code, set()).add(row)

    # --- neighbours --------------------------------------------------------------------------------------------

    def _link(self, row: int) -> None:
        session, position = int(self.columns["session"][row]), int(self.columns["position"][row])
        if position < 0:
            return
        turns = self._turns.setdefault((session, position), [])
        turns.append((int(self.columns["label"][row]), row))
        turns.sort()
        self._join(session, position - 1)
        self._join(session, position)

    def _unlink(self, row: int, label: int) -> None:
        session, position = int(self.columns["session"][row]), int(self.columns["position"][row])
        if position < 0:
            return
        turns = self._turns[session, position]
        turns.remove((label, row))
        self.columns["previous"][row] = self.columns["following"][row] = -1
        if not turns:
            del self._turns[session, position]
        self._join(session, position - 1)
        self._join(session, position)

    def _join(self, session: int, position: int) -> None:
        """Link the turn at `position` to the next: one to one, whatever the order in which they came."""
        here, there = self._turns.get((session, position), ()), self._turns.get((session, position + 1), ())
        for _, row in here:
            self.columns["following"][row] = -1
        for _, row in there:
            self.columns["previous"][row] = -1
        if here and there:
            self.columns["following"][here[-1][1]] = there[0][1]
            self.columns["previous"][there[0][1]] = here[-1][1]

    # --- asking ------------------------------------------------------------------------------------------------

    def hidden(self, seen: Seen) -> Flags | None:
        """The rows that do not exist for who sees only so much, shape [size]; None: there are none."""
        if seen is None or len(seen) == len(SENSITIVITIES):
            return None
        mask = ~np.isin(self["sensitivity"], [SENSITIVITIES.index(item) for item in seen])
        return mask if mask.any() else None

    def links(self, hidden: Flags | None) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The turn before and the turn after each row, or -1; neither to nor from rows that are hidden."""
        found = self["previous"], self["following"]
        if hidden is None:
            return found
        before, after = (np.where(hidden | ((link >= 0) & hidden[link]), np.int32(-1), link) for link in found)
        return before, after

    def speakers(self, hidden: Flags | None) -> tuple[str, ...]:
        """The names of those who spoke in rows that are not hidden."""
        if hidden is None:
            return tuple(name for name in self.actors.all if name is not None)
        codes = np.unique(self["actor"][~hidden])
        return tuple(name for code in codes.tolist() if code >= 0 and (name := self.actors.all[code]) is not None)

    def allowed(self, wanted: Filter, hidden: Flags | None = None) -> Flags:
        """The rows that may be found, shape [size]."""
        mask: Flags = self["label"] >= 0
        if hidden is not None:
            mask &= ~hidden
        if wanted.states:
            mask &= np.isin(self["state"], [STATES.index(state) for state in wanted.states])
        if wanted.kinds:
            mask &= np.isin(self["kind"], [KINDS.index(kind) for kind in wanted.kinds])
        if wanted.now is not None:
            mask &= self["expires"] > microseconds(wanted.now)
        if wanted.tags:
            codes = [code for tag in wanted.tags if (code := self.tags.code(tag)) is not None]
            mask &= self._mask(row for code in codes for row in self._tagged[code])
        if wanted.after is not None or wanted.before is not None:
            start = -NEVER if wanted.after is None else microseconds(wanted.after)
            mask &= self.during(start, NEVER if wanted.before is None else microseconds(wanted.before))
        return mask

    def during(self, start: int, end: int) -> Flags:
        """The rows that happened in [start, end), or that speak of a time that overlaps it, shape [size]."""
        if self._intervals is None:
            flat = [(row, *interval) for row, intervals in self._mentions.items() for interval in intervals]
            self._intervals = np.array(flat, np.int64).reshape(-1, 3)
        mask: Flags = (self["event"] >= start) & (self["event"] < end) & (self["label"] >= 0)
        spoken = self._intervals
        mask[spoken[(spoken[:, 1] < end) & (spoken[:, 2] > start), 0]] = True
        return mask

    def _mask(self, rows: Iterable[int]) -> Flags:
        mask = np.zeros(self.size, np.bool_)
        mask[np.fromiter(rows, np.int64)] = True
        return mask

    def moments(self, hidden: Flags | None = None) -> Times:
        """When each session began, by its code; all different, so that they have an order."""
        if hidden is not None:
            return self._began((self["label"] >= 0) & ~hidden)
        if self._moments is None:
            self._moments = self._began(self["label"] >= 0)
        return self._moments

    def _began(self, among: Flags) -> Times:
        live = np.flatnonzero(among)
        began, first = np.full((2, self.sessions.size), NEVER // 2, np.int64)  # half: sums must not overflow
        np.minimum.at(began, self["session"][live], self["event"][live])
        np.minimum.at(first, self["session"][live], self["label"][live])
        order = np.lexsort((first, began))
        moments: Times = began.copy()
        if len(order):
            # Sessions of one day may carry the same time: each is put a microsecond after the one before.
            steps = np.arange(len(order), dtype=np.int64)
            moments[order] = np.maximum.accumulate(began[order] - steps) + steps
        return moments

    # --- on disk -----------------------------------------------------------------------------------------------

    def save(self) -> tuple[bytes, bytes]:
        """The columns, and the names, of the memories that are there."""
        buffer = io.BytesIO()
        spoken = [(row, *interval) for row, found in sorted(self._mentions.items()) for interval in found]
        tagged = [(row, code) for row, codes in sorted(self._tags_of.items()) for code in codes]
        arrays: dict[str, Any] = {name: self[name] for name in COLUMNS}
        np.savez(
            buffer,
            mentions=np.array(spoken, np.int64).reshape(-1, 3),
            tagged=np.array(tagged, np.int64).reshape(-1, 2),
            **arrays,
        )
        names = {"ids": self.ids, "sessions": self.sessions.all, "actors": self.actors.all, "tags": self.tags.all}
        return buffer.getvalue(), json.dumps(names).encode()

    @classmethod
    def load(cls, arrays: bytes, names: bytes) -> Rows:
        """What `save` returned.

        Raises:
            ValueError, KeyError, TypeError: it is nothing of the kind.
        """
        rows = cls()
        texts = json.loads(names)
        rows.ids = list(texts["ids"])
        with np.load(io.BytesIO(arrays), allow_pickle=False) as found:
            rows.columns = {name: found[name].astype(dtype, copy=False) for name, (dtype, _) in COLUMNS.items()}
            mentions, tagged = found["mentions"], found["tagged"]
        if any(len(column) != len(rows.ids) for column in rows.columns.values()):
            raise ValueError("the columns have different lengths")
        labels = rows.columns["label"].tolist()
        rows.row_of = {label: row for row, label in enumerate(labels) if label >= 0}
        rows._free = [row for row, label in enumerate(labels) if label < 0]
        live = rows.columns["label"] >= 0
        rows.sessions = Names.of(texts["sessions"], rows.columns["session"][live])
        rows.actors = Names.of(texts["actors"], rows.columns["actor"][live])
        rows.tags = Names.of(texts["tags"], tagged[:, 1])
        _restore(rows, mentions.tolist(), tagged.tolist())
        return rows


def _restore(rows: Rows, mentions: Sequence[Sequence[int]], tagged: Sequence[Sequence[int]]) -> None:
    """The lookups that are not arrays."""
    spoken: dict[int, list[tuple[int, int]]] = {}
    for row, start, end in mentions:
        spoken.setdefault(row, []).append((start, end))
    rows._mentions = {row: tuple(found) for row, found in spoken.items()}
    codes: dict[int, list[int]] = {}
    for row, code in tagged:
        codes.setdefault(row, []).append(code)
    for row, found in codes.items():
        rows._tag(row, tuple(found))
    columns = (rows.columns[name].tolist() for name in ("label", "session", "position"))
    for row, (label, session, position) in enumerate(zip(*columns, strict=True)):
        if label >= 0 and position >= 0:
            rows._turns.setdefault((session, position), []).append((label, row))
    for turns in rows._turns.values():
        turns.sort()


def microseconds(moment: datetime) -> int:
    """Since 1970 in UTC; exact, unlike `timestamp()`."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
