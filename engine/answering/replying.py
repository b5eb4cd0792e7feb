"""One reply of the local model: through which adapter, from which memory in which form, and what is kept of it.

`Reply.steps` runs on the model's thread, a step at a time, so that replies take turns. What must stay true: what was
computed through an adapter is kept under the fingerprint with that adapter, and goes with every memory that it was made
from; nothing that was computed without it is used with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cubes import Memory
from engine.answering.forms import Candidate, Choice, choose, entangled, left_out
from engine.answering.gathering import Gathered, rivals
from engine.answering.notes import note_of
from engine.answering.wearing import known_of
from engine.model.generation import generate
from engine.model.loading import Loaded
from engine.model.prompts import MEMORY_END, MEMORY_LEAD, Piece, Prompt, ids_of_note, lay_out
from engine.model.tokens import tokens_for
from engine.model_operations import Chat, ChatEvent, Finished, Form, MemoryReport, Recalling, Said, Tier, Used
from engine.operations import Caller
from engine.tiers.kv.assembly import Assembled, assemble
from engine.tiers.kv.building import lossy_divergence, pinned_end
from engine.tiers.kv.entries import Entry, Scope
from engine.tiers.kv.files import NONE
from engine.tiers.kv.found import Chunk
from engine.tiers.kv.prefixes import BLOCK_TOKENS, Span
from engine.tiers.lora.headers import source_pairs
from engine.vault.adapters import AdapterRow

if TYPE_CHECKING:
    from engine.answering.local import LocalModel

PROBE_TOKENS = 64  # at the end of a prompt, after which a compressed cache is measured
OTHER_FORM = "an adapter answers: KV caches of single memories were made without it and are not used"


class Reply:
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
        self._adapter: AdapterRow | None = None
        self._saved_block = 0  # what would have stood around them
        self._saved: dict[str, int] = {}  # tokens that a memory would have cost, of those that the adapter knows
        self.ids: Sequence[int] = ()
        self.unvouched: Sequence[Span[Entry]] = ()
        self.forced = request.memory is not None and Tier.TEXT not in request.memory.tiers

    def steps(self, loaded: Loaded) -> Iterator[ChatEvent | None]:
        """The events; None where another reply may have its turn."""
        local, request = self._local, self._request
        erasures = local.erasures
        self._gathered = local.gathering.still(self._gathered, self._caller)
        loaded, self._adapter = local.wearing.worn(loaded, request.memory, self._caller)
        prompt = self._laid_out(loaded)
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
                *local.adapters.remarks(self._cubes()),
            ),
        )
        if kv:
            self._keep(loaded, prompt, made, lambda: local.erasures == erasures)
        yield Finished("".join(said), reason, tokens, report, loaded.info)

    def through(self, loaded: Loaded) -> Loaded | None:
        """The model as this reply saw it; None: the adapter is not there any more."""
        return loaded if self._adapter is None else self._local.adapters.worn(loaded, self._adapter)

    def _laid_out(self, loaded: Loaded) -> Prompt:
        """The prompt, without the recalled memories that the adapter knows and the model need not read beside others.

        A memory that is pinned always stands in it.
        """
        gathered, request = self._gathered, self._request
        known = known_of(self._adapter, [memory for memory, _ in gathered.recalled])
        alone = left_out(
            [_of_text(memory) for memory, _ in gathered.recalled], [_of_text(one) for one in gathered.pinned], known
        )
        told = [note_of(*item) for item in gathered.recalled if item[0].id not in alone]
        pinned = [note_of(memory) for memory in gathered.pinned]
        self._saved = {
            memory.id: len(ids_of_note(loaded, note_of(memory)))
            for memory, _ in gathered.recalled
            if memory.id in alone
        }
        if self._saved and not told:
            tokens = tokens_for(loaded.tokenizer)
            self._saved_block = len(tokens.text(MEMORY_LEAD)) + len(tokens.text(MEMORY_END))
        return lay_out(loaded, request.turns, pinned, told, request.sampling.max_tokens)

    def _choose(self, loaded: Loaded, prompt: Prompt) -> Choice:
        use, settings = self._request.memory, self._local.settings
        if use is None:
            return Choice({})
        candidates, pinned = self._candidates(prompt)
        if self._adapter is not None and Tier.TEXT in use.tiers:
            return Choice({candidate.id: Form.TEXT for candidate in candidates})
        refusal = self._local.refusal(loaded.info) or loaded.layout.chunk_refusal
        if self._adapter is not None:
            refusal = OTHER_FORM
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

        def form(id: str) -> Form:
            return Form.LORA if id in self._saved else choice.forms.get(id, Form.TEXT)

        used = tuple(
            Used(memory.id, memory.version, memory.cube, form(memory.id), memory.content, pinned)
            for memory, pinned in memories
            if memory.id in there or memory.id in self._saved
        )
        return MemoryReport(
            used=used,
            prompt_tokens=len(prompt.ids),
            saved_tokens=sum(self._saved.values()) + self._saved_block,
            adapter="" if self._adapter is None else f"{self._adapter.cube} {self._adapter.version}",
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
            if id in self._saved:
                return Form.LORA
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
        if self._adapter is not None:
            sources += source_pairs(self._adapter)  # what was computed through it holds a trace of each
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


def _of_text(memory: Memory) -> Candidate:
    return Candidate(memory.id, memory.content, 0, False, rivals=rivals(memory))
