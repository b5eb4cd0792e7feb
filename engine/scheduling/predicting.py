"""Next-scene prediction at work: one predictor for each principal, over the memories that it may need.

The predictors follow the log of scenes as it grows. What they know is read from the vault when the process starts, and
again when memories came or went; the weights are fitted to the log in the background, once there are enough turns and
then once a day. All of it stays in this process: nothing is written but the log itself, which is the vault's.

Knows no KV cache and moves nothing. What must stay true: what was erased is in no predictor once that call
has returned; a predictor never holds up who asks, since others feed it; nothing waits while weights are fitted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from engine.parts import Parts
from engine.scheduler.predict import BELIEF, Model, Predictor, fit
from engine.scheduler.scenes import Item, Shelf, Turn
from engine.scheduling.noting import principal_of
from engine.vault import queries
from engine.vault.connection import Connection
from engine.vault.heat import SceneRow, scenes
from engine.vault.rows import known_time
from engine.vault.staging import SHOWN

SHELF = 2_000  # memories, those that were stored or used last
PRINCIPALS = 8  # that were heard of last
FOLLOWED_TURNS = 1_000  # the latest ones, from which habits are learned when the process starts
FIT_TURNS = 400  # the latest ones that weights are fitted to
ENOUGH_TURNS = 40  # before weights are fitted at all
FIT_EVERY = timedelta(days=1)
TELLING = 0.005  # chances below that are not told: what nobody expects is not to be weighed

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Fitting:
    """Weights that are to be fitted: to which turns of whom, and what was erased until then."""

    principal: str
    shelf: Shelf
    turns: tuple[Turn, ...]
    erasures: int

    def fitted(self, ended: Callable[[], bool]) -> Model:
        """The model. Takes seconds, and may be called while the predictors are used."""
        return fit(self.shelf, self.turns, ended=ended)


class Predicting:
    """Used by one thread at a time; `forget` by any."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._predictors: dict[str, Predictor] = {}
        self._models: dict[str, Model] = {}
        self._fitted_at: dict[str, datetime] = {}
        self._revision = -1
        self._now = ""  # whose turn was the last
        self._lock = threading.Lock()
        self._erasures = 0
        self.expected = 0  # memories that are expected next, by the last look

    # --- following -----------------------------------------------------------------------------------------------

    def learn(self, turns: Sequence[Turn]) -> None:
        """These turns happened, in order of time."""
        for turn in turns:
            principal = principal_of(turn.session)
            if principal in self._predictors:
                self._predictors[principal].learn(turn)
            self._now = principal

    def refresh(self, waiting: Sequence[Turn] = ()) -> None:
        """Read the memories and the log again where anything changed. `waiting` turns are in no log yet."""
        vault = self._parts.vault
        if self._predictors and self._revision == vault.revision:
            return
        with self._lock:
            erasures = self._erasures
        with vault.reading() as connection:
            revision = vault.revision
            shelf = _shelf(connection, self._parts.embeddings.active or "")
            log = [_turn(row, self._dimension) for row in scenes(connection)[-FOLLOWED_TURNS:]]
        by_principal: dict[str, list[Turn]] = {}
        for turn in [*log, *waiting]:
            by_principal.setdefault(principal_of(turn.session), []).append(turn)
        latest = sorted(by_principal, key=lambda name: by_principal[name][-1].at)[-PRINCIPALS:]
        fresh = {name: Predictor(shelf, self._models.get(name, BELIEF)) for name in latest}
        for name, predictor in fresh.items():
            for turn in by_principal[name]:
                predictor.learn(turn)
        with self._lock:
            if erasures != self._erasures:  # what was read may be erased by now
                return
            self._predictors, self._revision = fresh, revision
        self._now = self._now or (latest[-1] if latest else "")

    @property
    def empty(self) -> bool:
        """Whether nothing was read yet, or all of it was forgotten."""
        return not self._predictors

    @property
    def _dimension(self) -> int:
        return self._parts.embeddings.dimension or 0

    def to_fit(self, now: datetime) -> Fitting | None:
        """What of one principal is to be fitted to its log, if that is due. `take` takes what comes of it."""
        with self._lock:
            erasures = self._erasures
            due = [
                name
                for name in self._predictors
                if name not in self._fitted_at or self._fitted_at[name] + FIT_EVERY <= now
            ]
        for name in due:
            with self._parts.vault.reading() as connection:
                log = [_turn(row, self._dimension) for row in scenes(connection)]
            mine = [turn for turn in log if principal_of(turn.session) == name][-FIT_TURNS:]
            predictor = self._predictors.get(name)
            if len(mine) < ENOUGH_TURNS or predictor is None:
                continue
            self._fitted_at[name] = now
            return Fitting(name, predictor.habits.shelf, tuple(mine), erasures)
        return None

    def take(self, fitting: Fitting, model: Model) -> None:
        """Use that model from now on, unless something was erased since: it may speak of that."""
        with self._lock:
            if fitting.erasures != self._erasures:
                return
            self._models[fitting.principal] = model
            predictor = self._predictors.get(fitting.principal)
            if predictor is not None:
                predictor.model = model

    # --- telling -------------------------------------------------------------------------------------------------

    def chances(self, now: datetime, among: Mapping[str, object]) -> dict[str, tuple[float, str]]:
        """How likely each of these memories is needed next by who asked last, and what speaks most for it."""
        predictor = self._predictors.get(self._now)
        if predictor is None or not among:
            self.expected = 0
            return {}
        found = {
            one.id: (one.chance, one.why) for one in predictor.expected(now, among.keys()) if one.chance >= TELLING
        }
        self.expected = len(found)
        return found

    @property
    def fitted_turns(self) -> int:
        """How many turns the weights were fitted to; 0: they are those to begin with."""
        return max((model.turns for model in self._models.values()), default=0)

    # --- forgetting ----------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Something was erased: everything is read again from what is left."""
        with self._lock:
            self._erasures += 1
            self._predictors, self._models, self._fitted_at, self._revision = {}, {}, {}, -1


def _shelf(connection: Connection, embedder: str) -> Shelf:
    """The memories that were stored or used last, in the order of time."""
    rows = connection.execute(
        "SELECT m.id, m.created_at, m.session, greatest(m.created_at, coalesce(u.last_access, m.created_at)) AS last"
        f" FROM memories AS m LEFT JOIN usage AS u USING (id) WHERE m.state IN (?, ?) AND m.parts = 0 AND {SHOWN}"
        " ORDER BY last DESC, m.label DESC LIMIT ?",
        [*queries.LIVE_STATES, SHELF],
    ).fetchall()
    rows.sort(key=lambda row: (row[1], row[0]))
    items = [
        Item(row[0], 1, known_time(row[1]), row[2] or "", position)  # the session is only compared: sealed or not
        for position, row in enumerate(rows)
    ]
    return Shelf(items, _vectors(connection, embedder, [item.id for item in items]))


def _vectors(connection: Connection, embedder: str, ids: Sequence[str]) -> Vectors | None:
    """The mean of each memory's passages, norm 1; zeros for what has none; None: there are none at all."""
    stored = queries.vectors(connection, embedder, ids) if embedder and ids else {}
    passages = {
        row[0]: row[1]
        for row in connection.execute(
            "SELECT id, passages FROM embeddings WHERE embedder = ? AND id IN (SELECT unnest(?::VARCHAR[]))",
            [embedder, list(ids)],
        ).fetchall()
    }
    found = {
        id: np.frombuffer(raw, dtype="<f4").reshape(passages[id], -1).mean(axis=0)
        for id, raw in stored.items()
        if passages.get(id) and raw
    }
    if not found:
        return None
    empty = np.zeros_like(next(iter(found.values())))
    means = np.stack([found.get(id, empty) for id in ids]).astype(np.float32)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    return np.asarray(means / np.maximum(norms, 1e-9), dtype=np.float32)


def _turn(row: SceneRow, dimension: int) -> Turn:
    """A row as a turn; the vector of another embedder tells nothing."""
    vector = None if row.vector is None else np.frombuffer(row.vector, dtype="<f4").astype(np.float32)
    turn = Turn(row.session, row.asked_at, row.used, vector)
    return turn if vector is None or len(vector) == dimension else replace(turn, vector=None)
