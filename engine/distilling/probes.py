"""What is asked of versions of adapters on the model's thread: probes, judgements, assertions, and fusing.

Generators of stages, as all work of the model; each stage tells how much of the whole is done. The versions are held
in the model while they are asked. Nothing here knows who asked, or keeps what came out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.distilling.effort import Effort
from engine.distilling.training import Limits, plan_for, require_room
from engine.errors import Conflict
from engine.model.loading import Loaded
from engine.model.prompts import Note
from engine.text.statements import statements
from engine.text.words import words
from engine.tier_operations import Probed
from engine.tiers.lora import fusing as weights
from engine.tiers.lora.asking import Said, Stage, asking, prompt_ids, share_of
from engine.tiers.lora.distil import LEARNING_RATE, learning_rate_for, peak_bytes
from engine.tiers.lora.files import Card
from engine.tiers.lora.gate import Verdict, judging
from engine.tiers.lora.making import questions_for, sweep_for
from engine.tiers.lora.probing import Asserted, probing
from engine.tiers.lora.questions import Questions, Subject, Sweep
from engine.tiers.lora.saying import says
from engine.tiers.lora.self_study import REFUSALS, Named, supported
from engine.tiers.lora.store import AdapterStore
from engine.vault.adapters import AdapterRow

MOST_RANK = 64  # of a fused adapter
ALL_WAYS = (weights.SVD, weights.LINEAR, weights.TIES, weights.DARE, weights.HEALED, weights.RETRAINED)
"""In the order of what they cost; `cat` is left out, since it is `svd` at the rank of both."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A question whose memory need not be there any more."""

    memory: str
    question: str
    right: str


@dataclass(frozen=True, slots=True)
class Found:
    """An assertion, and the memory that speaks of the same, if one does: whether it says the same."""

    said: Asserted
    source: Note | None
    agrees: bool | None


@dataclass(frozen=True, slots=True)
class Joined:
    """An adapter that several became, with what the gate says of it and of all that was tried."""

    config: Any
    tensors: Mapping[str, Any]
    card: Card
    fused: weights.Fused
    subjects: tuple[str, ...]
    seconds: float
    peak_bytes: int


# --- probes ---------------------------------------------------------------------------------------------------------


def probed(
    loaded: Loaded,
    adapters: AdapterStore,
    versions: tuple[AdapterRow | None, AdapterRow | None],
    notes: Sequence[Note],
    given: Sequence[Ask] = (),
) -> Generator[Stage, None, tuple[Probed, ...]]:
    """Ask two versions (None: the base) the same, closed book: the probes of `notes`, and what is `given`."""
    before, after = (_worn(loaded, adapters, row) for row in versions)
    asked = list(given)
    rights: list[Callable[[str], bool]] = [_by_value(one) for one in given]
    if notes:
        questions = yield from share_of(0.0, 0.4, questions_for(_worn(loaded, adapters, None), notes))
        for note in notes:
            for question in questions.probes(note):
                asked.append(Ask(note.id, question.text, question.right or ""))
                rights.append(lambda said, question=question: _is_right(questions, question, said))  # type: ignore[misc]
    prompts = [prompt_ids(loaded, one.question) for one in asked]
    first: list[Said] = yield from share_of(0.4, 0.3, asking(before, prompts, message="asking the one"))
    second: list[Said] = yield from share_of(0.7, 0.3, asking(after, prompts, message="asking the other"))
    return tuple(
        Probed(one.memory, one.question, a.text, b.text, right(a.text), right(b.text))
        for one, right, a, b in zip(asked, rights, first, second, strict=True)
    )


def alike(one: str, other: str) -> bool:
    """Whether two answers say the same: word for word, or both that nothing is known."""
    return words(one) == words(other) or all(not said.strip() or REFUSALS.search(said) for said in (one, other))


def asks(loaded: Loaded, adapters: AdapterStore, notes: Sequence[Note]) -> Generator[Stage, None, tuple[Ask, ...]]:
    """The probes of memories, to be asked when these are gone."""
    questions = yield from share_of(0.0, 1.0, questions_for(_worn(loaded, adapters, None), notes))
    return tuple(Ask(note.id, one.text, one.right or "") for note in notes for one in questions.probes(note))


def judged(
    loaded: Loaded, adapters: AdapterStore, row: AdapterRow, notes: Sequence[Note]
) -> Generator[Stage, None, Verdict]:
    """What the gate finds of a version that is there."""
    held = _worn(loaded, adapters, row)
    questions = yield from share_of(0.0, 0.3, questions_for(_worn(loaded, adapters, None), notes))
    found = yield from share_of(0.3, 0.7, judging(adapters.resident(loaded), row.artifact, notes, questions))
    del held  # until here it stays in the model
    return found


# --- from weights to text -------------------------------------------------------------------------------------------


def asserted(
    loaded: Loaded, adapters: AdapterStore, row: AdapterRow, notes: Sequence[Note]
) -> Generator[Stage, None, tuple[Found, ...]]:
    """What a version asserts beyond the base, the surest first, compared with the memories that it is from."""
    held = _worn(loaded, adapters, row)
    framed = sweep_for(_worn(loaded, adapters, None), notes, tuple(row.header.get("subjects", ())))
    plain = [note for note in notes if not statements(note.text)]
    sweep = _Both(framed, Named(tuple(dict.fromkeys(_begins(note.text) for note in plain))))
    found = yield from share_of(0.0, 1.0, probing(adapters.resident(loaded), row.artifact, sweep))
    del held
    return tuple(_compared(one, notes) for one in found)


@dataclass(frozen=True, slots=True)
class _Both:
    """A sweep over what statements are about, and over notes that state nothing a rule could ask for."""

    framed: Sweep
    named: Named

    def subjects(self) -> list[Subject]:
        return [*self.framed.subjects(), *self.named.subjects()]

    def refuses(self, answer: str) -> bool:
        return self.framed.refuses(answer)

    def stated(self, subject: Subject, answer: str) -> str:
        return (self.named if subject.key in self.named.names else self.framed).stated(subject, answer)


def _begins(text: str) -> str:
    return " ".join(text.split()[:4])


def _compared(said: Asserted, notes: Sequence[Note]) -> Found:
    for note in reversed(notes):  # what was said last holds
        for one in statements(note.text):
            if " ".join(filter(None, one.key)) == said.key:
                return Found(said, note, says(said.answer, one.value))
    about = next((note for note in notes if note.text.startswith(said.key)), None)
    return Found(said, about, None if about is None else supported(said.answer, about.text))


# --- several become one ---------------------------------------------------------------------------------------------


def joined(
    loaded: Loaded,
    adapters: AdapterStore,
    name: str,
    rows: Sequence[AdapterRow],
    notes: Sequence[Note],
    limits: Limits,
    effort: Effort,
) -> Generator[Stage, None, Joined]:
    """Make one adapter of several. Whatever ends it, what was in the making is out of the model afterwards."""
    plan = plan_for(loaded, 0, 0, 0, limits, effort)
    require_room(loaded, plan, limits)
    begun, before = time.monotonic(), peak_bytes()
    held = [_worn(loaded, adapters, row) for row in rows]
    resident = adapters.resident(loaded)
    questions = yield from share_of(0.0, 0.1, questions_for(_worn(loaded, adapters, None), notes))
    parts = [row.artifact for row in rows]
    scale = learning_rate_for(loaded.info.parameters) / LEARNING_RATE
    healing = replace(
        weights.HEALING,
        steps=min(weights.HEALING.steps, effort.steps or weights.HEALING.steps),
        learning_rate=weights.HEALING.learning_rate * scale,
        max_seconds=plan.max_seconds,
        max_bytes=plan.max_bytes,
    )
    rank = min(MOST_RANK, sum(resident.config(part).r for part in parts))
    steps = weights.fusing(
        resident,
        name,
        parts,
        notes,
        questions,
        rank=rank,
        hows=ALL_WAYS,
        healing=healing,
        plan=plan,
        replayed=effort.replayed,
    )
    fused = yield from share_of(0.1, 0.9, steps)
    del held
    try:
        card = resident.known(name).card
        assert card is not None
        tensors = {key: tensor.to("cpu").clone() for key, tensor in resident.tensors(name).items()}
        config = resident.config(name)
    finally:
        resident.drop(name)
    subjects = dict.fromkeys(one.subject for note in notes for one in statements(note.text))
    seconds, added = time.monotonic() - begun, max(0, peak_bytes() - before)
    return Joined(config, tensors, card, fused, tuple(subjects), seconds, added)


# --- what they share ------------------------------------------------------------------------------------------------


def _worn(loaded: Loaded, adapters: AdapterStore, row: AdapterRow | None) -> Loaded:
    """The model as seen through a version, or through none."""
    if row is None:
        return adapters.resident(loaded).wearing(None)
    worn = adapters.worn(loaded, row)
    if worn is None:
        why = "; ".join(adapters.remarks([row.cube]))
        raise Conflict(why or f"version {row.version} of cube {row.cube!r} cannot be used by the model that is loaded")
    return worn


def _is_right(questions: Questions, question: Any, said: str) -> bool:
    return not questions.refuses(said) and questions.agrees(question, said)


def _by_value(one: Ask) -> Callable[[str], bool]:
    return lambda said: bool(one.right) and says(said, one.right, one.question)
