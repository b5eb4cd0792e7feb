"""Moves between tiers by hand: every arrow of figure 3 of the MemOS paper (arXiv 2507.03724).

    text → kv               caches of the memories are computed
    text, kv → lora         an adapter is trained on them beside what the one that serves was trained on
    lora → text             an adapter without them takes its place; what an adapter asserts is `recover_texts`
    kv → text               their caches are dropped

The text of a memory is where it was after every move: caches and adapters are derived from it and name it as their
source, so that they go when it is changed, archived or erased. What is archived takes no part. What must stay true: a
move that is refused or stopped leaves the memories of that cube in the tiers in which they were, but for caches.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from cubes import Action, Memory
from engine.answering.answering import Answering
from engine.distilling.choosing import DISPUTED, disputed_of, unfit
from engine.distilling.distilling import Distilling
from engine.distilling.opening import manages
from engine.erasing import lasting_in
from engine.errors import Cancelled, Invalid, MemosError
from engine.governance.access import require
from engine.lifecycle.states import LIVE, is_expired
from engine.operations import Caller, Progress
from engine.parts import Parts, check_ids, existing, readable_cubes, seen_in
from engine.tier_operations import AdapterState, AdapterView, Distil, Held, Move, Moved, WorkView
from engine.tiers.lora.headers import known_pairs, left_out, source_pairs
from engine.vault import Transaction, queries
from engine.vault.adapters import KIND as ADAPTER
from engine.vault.adapters import AdapterRow, adapters_of
from engine.vault.artifacts import ArtifactRow, artifacts_of, artifacts_with

NOT_LEARNED = "the adapter does not answer what is asked about it: it is read as text"
CAME_LATER = "it was not there yet when the training began: move it again"
NOT_TRIED = "what the model cannot be asked about is left out of a training: only the training itself finds that out"
A_WHOLE = "it is the whole of a long text: its pieces are moved, by their ids or with their cube"


@dataclass(slots=True)
class _Outcome:
    """What a move has done so far."""

    moved: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    adapter: AdapterView | None = None
    artifacts: int = 0
    work: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class Moving:
    """Moves memories of one store."""

    def __init__(self, parts: Parts, answering: Answering, distilling: Distilling) -> None:
        self._parts, self._answering, self._distilling = parts, answering, distilling

    def move(self, request: Move, caller: Caller, progress: Progress) -> Moved:
        """Move memories, or all of a cube, to a tier; with `dry_run` only say which could be.

        Raises:
            Invalid: not exactly one of ids and a cube.
            NotFound, NotAllowed: a memory or cube that the caller may not see, or not change.
            Unavailable: there is no local model that could do it.
            Conflict: a memory was changed meanwhile.
            Cancelled: it was stopped; nothing was moved to the LoRA tier.
        """
        if bool(request.ids) == (request.cube is not None):
            raise Invalid("move takes either ids of memories or a cube")
        outcome = _Outcome()
        move = {Held.KV: self._to_kv, Held.LORA: self._to_lora, Held.PLAINTEXT: self._to_text}[request.to]
        for number, (cube, memories) in enumerate(self._asked_for(request, caller).items()):
            try:
                move(cube, memories, request, caller, progress, outcome)
            except Cancelled:
                raise
            except MemosError as error:
                if number == 0:
                    raise
                outcome.skipped |= {memory.id: str(error) for memory in memories}  # what was done before is told
        return Moved(
            to=request.to,
            moved=tuple(outcome.moved),
            skipped=tuple(outcome.skipped.items()),
            adapter=outcome.adapter,
            artifacts=outcome.artifacts,
            work=outcome.work[0] if outcome.work else None,
            remarks=(*outcome.remarks, *(f"{id} goes on in the background, too" for id in outcome.work[1:])),
        )

    def _asked_for(self, request: Move, caller: Caller) -> Mapping[str, list[Memory]]:
        """The memories by their cubes, as they are now."""
        if request.cube is not None:
            (cube,) = readable_cubes(self._parts, [request.cube], caller)
            require(caller.principal, cube, Action.WRITE)
            seen = seen_in(self._parts, cube.name, caller)
            with self._parts.vault.reading() as connection:
                found = [record.memory for record in queries.live(connection, cube.name)]
            return {cube.name: [one for one in found if one.governance.sensitivity in seen]}
        ids = check_ids(request.ids)
        with self._parts.vault.reading() as connection:
            transaction = Transaction(connection, self._parts.vault.head, self._parts.clock.now(), caller)
            memories = [record.memory for record in existing(transaction, ids, Action.WRITE)]
        by_cube: dict[str, list[Memory]] = {}
        for memory in memories:
            by_cube.setdefault(memory.cube, []).append(memory)
        return by_cube

    # --- to KV ---------------------------------------------------------------------------------------------------

    def _to_kv(
        self, cube: str, memories: list[Memory], request: Move, caller: Caller, progress: Progress, outcome: _Outcome
    ) -> None:
        fit = self._fit(memories, request, outcome, for_training=False)
        if request.dry_run or not fit:
            outcome.moved += [memory.id for memory in fit]
            return
        built = self._answering.build_tier(cube, caller, progress, [memory.id for memory in fit])
        skipped = dict(built.skipped)
        outcome.skipped |= skipped
        outcome.moved += [memory.id for memory in fit if memory.id not in skipped]
        outcome.artifacts += built.chunks + bool(built.prefix_tokens)
        if self._serving(cube, caller) is not None:
            outcome.remarks.append(f"an adapter serves {cube!r}: replies use these caches when none does")
        if request.background:
            outcome.remarks.append("KV caches are computed at once: only trainings go on in the background")

    def _fit(self, memories: Sequence[Memory], request: Move, outcome: _Outcome, *, for_training: bool) -> list[Memory]:
        """Those that can be moved; the others are skipped, with the reason where they were named."""
        now, fit = self._parts.clock.now(), []
        for memory in memories:
            why = unfit(memory, now) if for_training else None
            if memory.descriptive.parts:
                why = A_WHOLE
            elif memory.state not in LIVE or is_expired(memory, now):
                why = f"it is {memory.state.value if memory.state not in LIVE else 'expired'}: restore it first"
            if why is None:
                fit.append(memory)
            elif request.ids or not memory.descriptive.parts:
                outcome.skipped[memory.id] = why
        return fit

    # --- to LoRA -------------------------------------------------------------------------------------------------

    def _to_lora(
        self, cube: str, memories: list[Memory], request: Move, caller: Caller, progress: Progress, outcome: _Outcome
    ) -> None:
        fit = self._fit(memories, request, outcome, for_training=True)
        if request.cube is not None:
            out = disputed_of(self._parts, cube)
            outcome.skipped |= {memory.id: DISPUTED for memory in fit if memory.id in out}
            fit = [memory for memory in fit if memory.id not in out]
        serving = self._serving(cube, caller)
        there, left = self._settled(serving, fit)
        if fit and len(there) + len(left) == len(fit):
            outcome.moved += there
            outcome.skipped |= left
            said = "knows them already" if there else "was made without them, for this reason"
            outcome.remarks.append(f"the adapter that serves {cube!r} {said}: nothing was trained")
            return
        if request.dry_run or not fit:
            outcome.moved += [memory.id for memory in fit]
            outcome.remarks += [NOT_TRIED] if fit and NOT_TRIED not in outcome.remarks else []
            return
        before = self._current(serving)
        ids = () if request.cube is not None else tuple(dict.fromkeys([*before, *(memory.id for memory in fit)]))
        wanted = Distil(cube=cube, ids=ids, background=request.background, reason=request.reason)
        made = self._distilling.distil(wanted, caller, progress)
        if isinstance(made, WorkView):
            outcome.work.append(made.id)
            return
        self._tell_of(made, fit, caller, outcome)

    def _settled(self, serving: AdapterRow | None, fit: Sequence[Memory]) -> tuple[list[str], dict[str, str]]:
        """Those that the adapter which serves knows, and those that it could not be taught, as they are now: why."""
        loaded = self._answering.fingerprint
        if serving is None or (loaded and serving.header["model"] != loaded):
            return [], {}
        known, out = set(known_pairs(serving)), {(id, version): why for id, version, why in left_out(serving)}
        pairs = [(memory.id, memory.version) for memory in fit]
        return [pair[0] for pair in pairs if pair in known], {pair[0]: out[pair] for pair in pairs if pair in out}

    def _tell_of(self, made: AdapterView, memories: Sequence[Memory], caller: Caller, outcome: _Outcome) -> None:
        outcome.adapter = made
        outcome.artifacts += 1
        why = "; ".join(made.judged.why) if made.judged is not None else ""
        serves = made.state is AdapterState.SERVING
        known = {id for id, _ in made.known}
        trained, untaught = {id for id, _ in made.sources}, dict(made.left_out)
        for memory in memories:
            if serves and memory.id in known:
                outcome.moved.append(memory.id)
            elif memory.id not in trained:
                outcome.skipped[memory.id] = untaught.get(memory.id, CAME_LATER)
            else:
                outcome.skipped[memory.id] = NOT_LEARNED if serves else f"the adapter was refused: {why}"
        if not serves:
            before = self._serving(made.cube, caller)
            still = f"version {before.version} still does" if before is not None else "its memories are read as before"
            outcome.remarks.append(f"version {made.version} does not serve; {still}")

    def _serving(self, cube: str, caller: Caller) -> AdapterRow | None:
        with self._parts.vault.reading() as connection:
            rows = [row for row in adapters_of(connection, cube) if row.state is AdapterState.SERVING]
        return next((row for row in rows if manages(self._parts, row, caller)), None)

    def _current(self, row: AdapterRow | None) -> list[str]:
        """The memories that a version was trained on, as far as they may be trained on still."""
        if row is None:
            return []
        now = self._parts.clock.now()
        with self._parts.vault.reading() as connection:
            records = queries.records(connection, [id for id, _ in source_pairs(row)])
        return [
            id for id, record in records.items() if record.memory.cube == row.cube and not unfit(record.memory, now)
        ]

    # --- to text -------------------------------------------------------------------------------------------------

    def _to_text(
        self, cube: str, memories: list[Memory], request: Move, caller: Caller, progress: Progress, outcome: _Outcome
    ) -> None:
        ids, serving = {memory.id for memory in memories}, self._serving(cube, caller)
        derived = self._derived(cube, ids, request)
        caches = [row.id for row in derived if row.kind != ADAPTER]
        learned = {id for id, _ in source_pairs(serving)} & ids if serving is not None else set()
        cached = {id for row in derived if row.kind != ADAPTER for id, _ in row.sources} & ids
        moved = cached | learned
        if not request.dry_run:
            asked = len(outcome.work)
            if serving is not None and learned:
                self._without(serving, learned, request, caller, progress, outcome)
            if len(outcome.work) > asked:
                moved -= learned  # not yet
            outcome.artifacts += self._answering.drop_caches(cube, caches, caller)
        outcome.moved += [memory.id for memory in memories if memory.id in moved]

    def _derived(self, cube: str, ids: Collection[str], request: Move) -> list[ArtifactRow]:
        with self._parts.vault.reading() as connection:
            rows = artifacts_of(connection, cube) if request.cube is not None else artifacts_with(connection, ids)
        return [row for row in rows if row.cube == cube]

    def _without(
        self,
        serving: AdapterRow,
        learned: Collection[str],
        request: Move,
        caller: Caller,
        progress: Progress,
        outcome: _Outcome,
    ) -> None:
        """Let an adapter of the other memories take the place of the one that serves; where there are none, none."""
        cube, rest = serving.cube, [id for id in self._current(serving) if id not in learned]
        refusal = self._answering.untrainable() if rest else None
        if rest and refusal is None:
            wanted = Distil(cube=cube, ids=tuple(rest), background=request.background, reason=request.reason)
            made = self._distilling.distil(wanted, caller, progress)
            if isinstance(made, WorkView):
                outcome.work.append(made.id)
                return
            outcome.adapter = made
            if made.state is AdapterState.SERVING:
                outcome.artifacts += 1
                return
            outcome.remarks.append(
                f"an adapter of the other {len(rest)} memories was refused, so none serves {cube!r} now"
            )
        elif refusal is not None:
            outcome.remarks.append(f"an adapter of the other {len(rest)} memories cannot be trained: {refusal}")
        self._answering.adapters.activate(cube, None, caller, lasting_in(self._parts, cube, request.reason))
        outcome.artifacts += 1
        outcome.remarks.append(
            f"no adapter serves {cube!r} now; memos-mcp tier activate {cube} {serving.version} undoes that"
        )
