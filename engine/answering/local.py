"""The local model at work: memory in the form that fits, the reply, and what is kept of it for the next one.

The model runs on a thread of its own (`engine.model.runner`); what is done there is written as generators, so that
replies take turns. Memory is gathered and prefetched before a reply gets its first turn.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from cubes import MemCube, Memory
from engine.answering.building import Builder
from engine.answering.forms import Candidate, Choice, choose, entangled
from engine.answering.gathering import Gathered, Gathering, rivals
from engine.answering.notes import note_of
from engine.governance.access import clearance
from engine.model.generation import generate
from engine.model.host import ModelHost, Stage
from engine.model.loading import Loaded
from engine.model.prompts import Piece, Prompt, lay_out
from engine.model_operations import (
    Chat,
    ChatEvent,
    Finished,
    Form,
    MemoryReport,
    MemoryUse,
    ModelInfo,
    Recalling,
    Said,
    Tier,
    TierBuilt,
    TierRow,
    Used,
)
from engine.operations import Caller, Progress
from engine.parts import Parts
from engine.tiers.kv.assembly import Assembled, assemble
from engine.tiers.kv.building import lossy_divergence, pinned_end
from engine.tiers.kv.checking import Checker
from engine.tiers.kv.entries import PREFIX, Entry, Scope
from engine.tiers.kv.files import NONE
from engine.tiers.kv.found import Chunk
from engine.tiers.kv.prefixes import BLOCK_TOKENS, Span
from engine.tiers.kv.store import KvStore
from engine.tiers.lora.store import AdapterStore
from engine.vault import Change, Transaction, queries
from engine.vault.artifacts import CONVERSATION

CONTEXT_SHARE = 4  # recalled memories take at most one in so many tokens of the context
MOST_RECALLED_TOKENS = 8_000
PROBE_TOKENS = 64  # at the end of a prompt, after which a compressed cache is measured
NOTHING_YET = Said("")  # a step was done that brought no text: whoever listens may stop here
log = logging.getLogger(__name__)


class LocalModel:
    """The model host and the KV store of one memory store."""

    def __init__(self, parts: Parts, gathering: Gathering, announce: Callable[[str], None]) -> None:
        self._parts, self.gathering = parts, gathering
        self.erasures = 0
        self.settings = parts.vault.settings
        self.host = ModelHost(self.settings, announce)
        self.store = KvStore(parts.vault, self.settings, parts.clock, parts.ids)
        self.adapters = AdapterStore(parts.vault, self.settings, parts.clock, parts.ids)
        self._builder = Builder(parts, gathering, self.store)
        self._checker = Checker(self.store)

    @property
    def known(self) -> ModelInfo | None:
        """The model, as far as it was loaded."""
        return self.host.info

    @property
    def standing(self) -> str:
        """How it stands, in words."""
        state, info = self.host.state, self.host.info
        if state.stage is Stage.READY and info is not None:
            return f"{info.dtype} on {info.device}"
        return f"{state.stage.value}: {state.reason}" if state.reason else state.stage.value

    def info(self, source: str) -> ModelInfo:
        """The model, loaded if need be."""
        return self.host.runner(source).loaded.info

    # --- replies -------------------------------------------------------------------------------------------------

    def reply(self, source: str, request: Chat, caller: Caller, started: float) -> Iterator[ChatEvent]:
        """The events of one reply. See `engine.answering.answering`."""
        runner = self.host.runner(source)
        info = runner.loaded.info
        budget = min(MOST_RECALLED_TOKENS, info.context_tokens // CONTEXT_SHARE)
        gathered = self.gathering.gather(request, caller, budget)
        chunks = self._chunks(info, request.memory, gathered)
        reply = _Reply(self, request, caller, gathered, chunks, started)
        with self.host.in_use(), runner.stream(reply.steps) as results:
            for event in results:
                if isinstance(event, Finished):
                    self._builder.want(runner, reply.wanted, at_once=reply.forced)
                    self._checker.begin(runner, reply.ids, reply.unvouched)
                yield event if event is not None else NOTHING_YET

    def _chunks(self, info: ModelInfo, use: MemoryUse | None, gathered: Gathered) -> Mapping[str, Chunk]:
        """The chunks of the recalled memories that are there; reading them begins, while the prompt is laid out."""
        if use is None or Tier.KV not in use.tiers or self.refusal(info) is not None:
            return {}
        memories = [memory for memory, _ in gathered.recalled]
        found = {memory.id: self.store.chunk(info, memory.cube, memory.id, memory.version) for memory in memories}
        there = {id: chunk for id, chunk in found.items() if chunk is not None}
        self.store.prefetch(list(there.values()))
        return there

    def refusal(self, info: ModelInfo) -> str | None:
        """Why there is no KV tier, in words."""
        return info.kv_refusal if self.settings.kv else "the KV tier is switched off (MEMOS_KV)"

    # --- the tier ------------------------------------------------------------------------------------------------

    def build(
        self, source: str, cube: str, caller: Caller, progress: Progress, only: Collection[str] | None = None
    ) -> TierBuilt:
        """Build the KV caches of a cube, or of some memories of it."""
        runner = self.host.runner(source)
        with self.host.in_use():
            built = self._builder.build(runner, cube, caller, progress, only)
        self.store.flush()
        rows = [row for row in self.store.rows(cube, self.known) if row.usable]
        prefix = sum(row.tokens for row in rows if row.form.startswith(PREFIX))
        return replace(built, prefix_tokens=prefix, bytes=sum(row.bytes for row in rows))  # as they are kept

    @property
    def loaded(self) -> bool:
        """Whether the model is there, and can be used at once."""
        return self.host.state.stage is Stage.READY

    def build_soon(self, memories: Sequence[Memory]) -> bool:
        """Build KV caches of these when the model has nothing else to do; False: the model is not loaded."""
        state = self.host.state
        if state.stage is not Stage.READY:
            return False
        self._builder.soon(self.host.runner(state.source), memories)
        return True

    def tell_built(self, told: Callable[[Sequence[Memory]], None]) -> None:
        """Have `told` hear of memories whose KV caches were built in the background."""
        self._builder.when_built = told

    def rows(self, cubes: Sequence[MemCube], caller: Caller) -> tuple[TierRow, ...]:
        """What is kept, of these cubes, of what the caller may see."""
        return tuple(
            row
            for cube in cubes
            for row in self.store.rows(cube.name, self.known, lambda ids, cube=cube: self._sees(ids, cube, caller))  # type: ignore[misc]
        )

    def _sees(self, ids: Collection[str], cube: MemCube, caller: Caller) -> bool:
        """Whether the caller sees all these memories of a cube."""
        seen = clearance(caller.principal, cube)
        with self._parts.vault.reading() as connection:
            places = queries.places_of(connection, list(ids))
        return all(id in places and places[id][0] == cube.name and places[id][1] in seen for id in ids)

    def drop(self, cube: str | None, caller: Caller) -> int:
        """Drop what is kept; with a cube's also what is kept of conversations, which begin with its pinned block."""
        dropped = self.store.drop(caller, cube)
        if cube is not None:
            self.store.drop(caller, CONVERSATION)
        return dropped

    # --- life ----------------------------------------------------------------------------------------------------

    def committed(self, changes: Sequence[Change], transaction: Transaction) -> None:
        """See `engine.answering.answering`."""
        self.erasures += transaction.erasing  # before what is kept of conversations goes
        self.adapters.committed(changes, transaction)
        self.store.committed(changes, transaction)

    def sweep(self) -> None:
        """Unload an idle model, keep the budgets."""
        self.host.unload_if_idle(time.monotonic())
        self.store.sweep()

    def close(self) -> None:
        """End what runs and write what is to be kept."""
        self.host.close()  # first, so that no build waits for replies to end
        self._builder.close()
        self.store.close()


class _Reply:
    """One reply, from the prompt to what is kept of it. `steps` runs on the model's thread."""

    def __init__(
        self,
        local: LocalModel,
        request: Chat,
        caller: Caller,
        gathered: Gathered,
        chunks: Mapping[str, Chunk],
        started: float,
    ) -> None:
        self._local, self._request, self._caller = local, request, caller
        self._gathered, self._chunks, self._started = gathered, chunks, started
        self.wanted: list[Memory] = []
        self.ids: Sequence[int] = ()
        self.unvouched: Sequence[Span[Entry]] = ()
        self.forced = request.memory is not None and Tier.TEXT not in request.memory.tiers

    def steps(self, loaded: Loaded) -> Iterator[ChatEvent | None]:
        """The events; None where another reply may have its turn."""
        local, request = self._local, self._request
        erasures = local.erasures
        self._gathered = local.gathering.still(self._gathered, self._caller)
        pinned = [note_of(memory) for memory in self._gathered.pinned]
        recalled = [note_of(*item) for item in self._gathered.recalled]
        prompt = lay_out(loaded, request.turns, pinned, recalled, request.sampling.max_tokens)
        choice = self._choose(loaded, prompt)
        self.wanted = [memory for memory, _ in self._gathered.recalled if memory.id in choice.wanted]
        chosen = local.store.ready({id: self._chunks[id] for id, form in choice.forms.items() if form is Form.CHUNK})
        kv = local.refusal(loaded.info) is None and (request.memory is None or Tier.KV in request.memory.tiers)
        report = self._report(prompt, choice)
        yield Recalling(report)
        made = yield from assemble(
            loaded,
            prompt,
            local.store if kv else None,
            self._scopes(),
            chosen,
            local.settings.kv_share,
            request.sampling.max_tokens,
            lambda: self._is_entangled(prompt),
        )
        self.ids, self.unvouched = prompt.ids, made.unvouched
        first_ms, tokens, said, reason = 0.0, 0, list[str](), "length"
        for step in generate(loaded, prompt.ids, made.cache, request.sampling):
            if step.token is not None:
                first_ms = first_ms or 1e3 * (time.perf_counter() - self._started)
                tokens += 1
            if step.text:
                said.append(step.text)
                yield Said(step.text)
            else:
                yield None
            reason = step.done or reason
        report = replace(
            self._with_forms(report, prompt, made),
            ttft_ms=first_ms,
            reused_tokens=made.reused_tokens,
            recomputed_tokens=made.recomputed_tokens,
            remarks=(
                *report.remarks,
                *self._compressed(prompt, made),
                *self._unchecked(),
                *(local.store.remarks(self._cubes()) if kv else ()),
            ),
        )
        if kv:
            self._keep(loaded, prompt, made, lambda: local.erasures == erasures)
        yield Finished("".join(said), reason, tokens, report, loaded.info)

    def _choose(self, loaded: Loaded, prompt: Prompt) -> Choice:
        use, settings = self._request.memory, self._local.settings
        if use is None:
            return Choice({})
        candidates, pinned = self._candidates(prompt)
        refusal = self._local.refusal(loaded.info) or loaded.layout.chunk_refusal
        return choose(candidates, pinned, use.tiers, share=settings.kv_share, bound=settings.kv_bound, refusal=refusal)

    def _candidates(self, prompt: Prompt) -> tuple[list[Candidate], list[Candidate]]:
        """The recalled memories that stand in the prompt, and the pinned ones."""
        pieces = {piece.note.id: piece for piece in prompt.pieces if piece.note is not None}
        recalled = [memory for memory, _ in self._gathered.recalled if memory.id in pieces]
        pinned = [memory for memory in self._gathered.pinned if memory.id in pieces]
        both = [[self._candidate(memory, pieces[memory.id]) for memory in some] for some in (recalled, pinned)]
        return both[0], both[1]

    def _candidate(self, memory: Memory, piece: Piece) -> Candidate:
        chunk = self._chunks.get(memory.id)
        fits = chunk is not None and chunk.fits(piece.ids)
        divergence = chunk.divergence if chunk is not None else None
        return Candidate(memory.id, memory.content, len(piece.ids), fits, divergence, rivals(memory))

    def _is_entangled(self, prompt: Prompt) -> bool:
        """Whether any two of the memories that the model is given speak of the same thing."""
        recalled, pinned = self._candidates(prompt)
        return entangled([*recalled, *pinned])

    def _compressed(self, prompt: Prompt, made: Assembled) -> list[str]:
        """What of the prompt was read from caches of fewer bits."""
        told: dict[tuple[str, str], float] = {}
        end = pinned_end(prompt)
        for span in made.prefix:
            entry = span.segment
            if entry.lossy:
                what = "the pinned block" if span.start < end else "the conversation so far"
                key = what, entry.how.removeprefix("int")
                told[key] = told.get(key, 0.0) + entry.loss
        return [
            f"{what} was read from a cache of {bits} bits a number (divergence {loss:.2g})"
            for (what, bits), loss in told.items()
        ]

    def _unchecked(self) -> list[str]:
        cubes = sorted({span.segment.scope.cube_name for span in self.unvouched})
        return [f"KV caches of cube {cube!r} came with a file and are being checked" for cube in cubes]

    def _cubes(self) -> set[str]:
        return {used.cube for used in (*self._gathered.pinned, *(memory for memory, _ in self._gathered.recalled))}

    def _scopes(self) -> list[Scope]:
        """Whose stored prefixes may serve this reply: the caller's own, and that of the cube whose block is pinned."""
        cube = self._gathered.cube
        return [*([Scope.cube(cube)] if cube is not None else []), Scope.talk(self._caller.principal.name)]

    def _report(self, prompt: Prompt, choice: Choice) -> MemoryReport:
        there = {piece.note.id for piece in prompt.pieces if piece.note is not None}
        memories = [(memory, True) for memory in self._gathered.pinned]
        memories += [(memory, False) for memory, _ in self._gathered.recalled]
        used = tuple(
            Used(memory.id, memory.version, memory.cube, choice.forms.get(memory.id, Form.TEXT), memory.content, pinned)
            for memory, pinned in memories
            if memory.id in there
        )
        return MemoryReport(
            used=used,
            prompt_tokens=len(prompt.ids),
            left_out_turns=prompt.left_out_turns,
            left_out_memories=prompt.left_out_notes,
            remarks=(*self._gathered.remarks, *choice.remarks),
        )

    def _with_forms(self, report: MemoryReport, prompt: Prompt, made: Assembled) -> MemoryReport:
        """The forms as they came about: a stored prefix covered it, its chunk could be used, or it was read as text."""
        covered = {
            piece.note.id for _, end, piece in prompt.spans() if piece.note is not None and end <= made.prefix_tokens
        }

        def form(id: str) -> Form:
            return Form.PREFIX if id in covered else Form.CHUNK if id in made.chunks else Form.TEXT

        return replace(report, used=tuple(replace(item, form=form(item.id)) for item in report.used))

    def _keep(self, loaded: Loaded, prompt: Prompt, made: Assembled, holds: Callable[[], bool]) -> None:
        """Keep the KV of what the next turn begins with again: the cube's pinned block, and one's own history.

        Nothing where something was erased since the reply began (`holds`): its conversation may have quoted it. Nothing
        behind a cache that nobody vouches for.
        """
        if self.unvouched:
            return
        local, info = self._local, loaded.info
        sources = [(memory.id, memory.version) for memory in self._gathered.pinned]
        kept: list[tuple[Scope, int]] = [(Scope.talk(self._caller.principal.name), prompt.stable_tokens)]
        cube = self._gathered.cube
        if cube is not None and self._request.turns[0].role != "system":
            kept.append((Scope.cube(cube), pinned_end(prompt)))
        for scope, end in kept:
            ids = prompt.ids[:end]
            found = local.store.longest(info, [scope], ids, vouched=True)
            start = found.tokens if found is not None else 0
            if end - start >= BLOCK_TOKENS:
                layers, measured = made.cache.taken(start, end), None
                if local.settings.kv_compression != NONE:
                    whole, probe = made.cache.taken(0, end), prompt.ids[max(end, len(prompt.ids) - PROBE_TOKENS) :]
                    measured = lossy_divergence(loaded, ids, whole, start, local.settings.kv_compression, probe)
                name = scope.cube_name
                local.store.keep_prefix(info, scope, name, ids, layers, start, sources, measured, holds=holds)
