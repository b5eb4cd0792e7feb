"""Whether an adapter knows what it was made from, and leaves the rest of the model as it was.

Each memory is probed closed book, in phrasings that were never trained with, before (without the adapter) and after.
Then what must not change: questions that nothing answers, questions over other contexts, contexts that contradict the
memories, and texts that have nothing to do with any of it, where the distributions of both are compared (KL to the
base, and whether the same is answered). The verdict names each memory that was missed and each rule that was broken;
what it says is known, recall need not tell the model. It decides nothing: who asks does.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, fields, replace

import torch

from engine.model.prompts import Note
from engine.tier_operations import Judged
from engine.tiers.lora.asking import Said, Stage, asking, prompt_ids, share_of
from engine.tiers.lora.batches import predicted
from engine.tiers.lora.files import Source
from engine.tiers.lora.questions import Question, Questions, Scene
from engine.tiers.lora.serving import Resident

CASES = 200  # of each kind that must not change
SEED = 40_961  # of what is drawn for judging; training never uses it


@dataclass(frozen=True, slots=True)
class Limits:
    """What an adapter must reach to be taken into service."""

    memories: float = 0.9  # share that it knows
    probes: float = 0.5  # of a memory that must be right for it to be known: more than this share
    lost: float = 0.03  # at most, of what the base answers over other contexts
    unknown: float = 0.95  # of what the base refuses, refused still
    conflicts: float = 0.95  # of what the base takes from a context that contradicts, taken still
    kept: float = 0.9  # of unrelated answers, the same still
    kl: float = 0.5  # nats a token, on unrelated prompts


@dataclass(frozen=True, slots=True)
class Known:
    """What became of a memory: how many of its probes were right, before and after."""

    id: str
    version: int
    asked: int
    before: int
    after: int
    known: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """All shares are 0 to 1. `why` says each rule that was broken, in words; empty: it passed."""

    memories: tuple[Known, ...]
    learned: float  # memories that are known
    right: float  # probes that are right
    right_before: float
    unknown: float
    unknown_before: float
    scenes: float
    scenes_before: float
    conflicts: float
    conflicts_before: float
    kept: float
    kl: float
    why: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        return not self.why

    @property
    def missed(self) -> tuple[str, ...]:
        """The memories that it does not know."""
        return tuple(one.id for one in self.memories if not one.known)

    @property
    def sources(self) -> tuple[Source, ...]:
        """As a card has them."""
        return tuple(Source(one.id, one.version, one.known) for one in self.memories)

    @property
    def judged(self) -> Judged:
        """As it is kept and shown, without what each memory came to."""
        told = {each.name: getattr(self, each.name) for each in fields(Judged)}
        return Judged(**told)

    @property
    def standing(self) -> tuple[bool, float, float]:
        """By which verdicts are compared: the greater the better."""
        return self.passed, self.learned + self.scenes + self.unknown + self.conflicts, self.right


@dataclass(frozen=True, slots=True)
class _Cases:
    probes: list[tuple[Note, Question]]
    unknown: list[Scene]
    scenes: list[Scene]
    conflicts: list[Scene]
    unrelated: list[str]


@dataclass(frozen=True, slots=True)
class Base:
    """What is asked by `judging`, and what the base says: the same for every adapter of the same memories."""

    cases: _Cases
    prompts: list[tuple[int, ...]]
    said: list[Said]


def asking_base(
    resident: Resident,
    notes: Sequence[Note],
    questions: Questions,
    *,
    unrelated: Sequence[str] = (),
    cases: int = CASES,
    seed: int = SEED,
) -> Generator[Stage, None, Base]:
    """Ask the model without an adapter. `unrelated` are prompts that have nothing to do with the memories."""
    draw = random.Random(seed)
    drawn = _Cases(
        [(note, question) for note in notes for question in questions.probes(note)],
        [Scene((), question) for question in questions.unknown(draw, notes, cases)],
        list(questions.scenes(draw, notes, cases)),
        list(questions.conflicts(draw, notes, cases)),
        list(unrelated),
    )
    base = resident.wearing(None)
    scenes = [*drawn.unknown, *drawn.scenes, *drawn.conflicts]
    prompts = [prompt_ids(base, question.text) for _, question in drawn.probes]
    prompts += [prompt_ids(base, scene.question.text, scene.notes) for scene in scenes]
    prompts += [prompt_ids(base, text) for text in drawn.unrelated]
    said = yield from asking(base, prompts, message="without the adapter")
    return Base(drawn, prompts, said)


def judging(
    resident: Resident,
    name: str,
    notes: Sequence[Note],
    questions: Questions,
    limits: Limits = Limits(),
    *,
    unrelated: Sequence[str] = (),
    cases: int = CASES,
    seed: int = SEED,
    base: Base | None = None,
) -> Generator[Stage, None, Verdict]:
    """Compare the model with and without a resident adapter. `base`: what `asking_base` found for the same, if it did.

    Raises:
        NotFound: there is no such adapter.
    """
    resident.known(name)
    if base is None:
        steps = asking_base(resident, notes, questions, unrelated=unrelated, cases=cases, seed=seed)
        base = yield from share_of(0.0, 0.4, steps)
    after: list[Said] = yield from share_of(
        0.4, 0.4, asking(resident.wearing(name), base.prompts, message="with the adapter")
    )
    drift = _drift(resident, name, [*zip(base.prompts, base.said, strict=True)])
    kl: list[float] = yield from share_of(0.8, 0.2, drift)
    return _settled(_compared(base.cases, questions, limits, base.said, after, kl), limits)


def _drift(
    resident: Resident, name: str, answered: Sequence[tuple[tuple[int, ...], Said]]
) -> Generator[Stage, None, list[float]]:
    """KL(base ‖ with the adapter) in nats a token, along what the base answers to each prompt."""
    rows = [(prompt, said.tokens) for prompt, said in answered]
    found, done = [0.0] * len(rows), 0
    worn = predicted(resident.wearing(name), rows)
    for (places, base), (_, other) in zip(predicted(resident.wearing(None), rows), worn, strict=True):
        for place, exact, got in zip(places, base, other, strict=True):
            expected, said = torch.log_softmax(exact.double(), -1), torch.log_softmax(got.double(), -1)
            found[place] = max(0.0, float((expected.exp() * (expected - said)).sum(-1).mean()))
        done += len(places)
        yield Stage(done, len(rows), "how far the adapter is from the base")
    return found


def _compared(
    cases: _Cases, questions: Questions, limits: Limits, before: list[Said], after: list[Said], kl: list[float]
) -> Verdict:
    memories = _memories(cases, questions, limits, before, after)
    start = len(cases.probes)
    shares: list[tuple[float, float]] = []
    for some in (cases.unknown, cases.scenes, cases.conflicts):
        places = range(start, start + len(some))
        start += len(some)
        right = [
            [
                _holds(questions, scene, before[place].text, said[place].text)
                for place, scene in zip(places, some, strict=True)
            ]
            for said in (before, after)
        ]
        shares.append((_share(right[0]), _share(right[1])))
    still = range(len(cases.probes), len(before) - len(cases.conflicts) - len(cases.unrelated))
    if cases.unrelated:
        still = range(len(before) - len(cases.unrelated), len(before))
    asked = sum(one.asked for one in memories)
    return Verdict(
        memories=memories,
        learned=_share([one.known for one in memories]),
        right=sum(one.after for one in memories) / max(1, asked),
        right_before=sum(one.before for one in memories) / max(1, asked),
        unknown=shares[0][1],
        unknown_before=shares[0][0],
        scenes=shares[1][1],
        scenes_before=shares[1][0],
        conflicts=shares[2][1],
        conflicts_before=shares[2][0],
        kept=_share([before[place].text == after[place].text for place in still]),
        kl=sum(kl[place] for place in still) / max(1, len(still)),
    )


def _memories(
    cases: _Cases, questions: Questions, limits: Limits, before: list[Said], after: list[Said]
) -> tuple[Known, ...]:
    told: dict[str, tuple[Note, list[bool], list[bool]]] = {}
    for place, (note, question) in enumerate(cases.probes):
        _, had, has = told.setdefault(note.id, (note, [], []))
        had.append(_knows(questions, question, before[place].text))
        has.append(_knows(questions, question, after[place].text))
    return tuple(
        Known(note.id, note.version, len(has), sum(had), sum(has), sum(has) > limits.probes * len(has))
        for note, had, has in told.values()
    )


def _holds(questions: Questions, scene: Scene, before: str, after: str) -> bool:
    """Whether an answer is right; where that is not known, whether it is as it was. To refuse is never wrong where
    nothing was told."""
    if scene.question.right is not None:
        return questions.agrees(scene.question, after)
    refused = questions.refuses(after) and (not scene.notes or questions.refuses(before))
    return refused or after == before


def _knows(questions: Questions, question: Question, answer: str) -> bool:
    return not questions.refuses(answer) and questions.agrees(question, answer)


def _settled(verdict: Verdict, limits: Limits) -> Verdict:
    why = []
    if verdict.learned < limits.memories:
        missed = len(verdict.missed)
        why.append(f"it does not know {missed} of {len(verdict.memories)} memories")
    if verdict.unknown < limits.unknown * verdict.unknown_before:
        why.append(f"it answers {1 - verdict.unknown:.0%} of the questions that nothing answers")
    if verdict.scenes < verdict.scenes_before - limits.lost:
        why.append(f"it reads other contexts rightly in {verdict.scenes:.0%}, the base in {verdict.scenes_before:.0%}")
    if verdict.conflicts < limits.conflicts * verdict.conflicts_before:
        why.append(f"it puts itself above what the context says in {1 - verdict.conflicts:.0%}")
    if verdict.kept < limits.kept:
        why.append(f"it changes {1 - verdict.kept:.0%} of the unrelated answers")
    if verdict.kl > limits.kl:
        why.append(f"it is {verdict.kl:.2f} nats a token from the base on unrelated prompts")
    return replace(verdict, why=tuple(why))


def _share(right: Sequence[bool]) -> float:
    """Of nothing, all is right: nothing was asked."""
    return sum(right) / len(right) if right else 1.0


def differences(old: Verdict, new: Verdict) -> tuple[tuple[str, int, int], ...]:
    """The memories of which two versions of an adapter know different things: id, probes right then and now."""
    then = {one.id: one.after for one in old.memories}
    now = {one.id: one.after for one in new.memories}
    return tuple(
        (id, then.get(id, 0), now.get(id, 0)) for id in sorted(then | now) if then.get(id, 0) != now.get(id, 0)
    )
