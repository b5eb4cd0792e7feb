"""One training, from memories to an adapter that was judged: what runs on the model's thread, in steps.

The model asks about the notes, answers with them in its context, is trained to answer so without them, and is probed.
Whatever ends it, the adapter in the making is out of the model afterwards. It keeps nothing: who asked for it does.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.distilling.effort import Effort
from engine.errors import TooLarge, Unavailable
from engine.model.loading import Loaded
from engine.model.prompts import Note
from engine.text.statements import statements
from engine.tiers.lora.asking import Stage
from engine.tiers.lora.distil import Distilled, Plan, adapter_bytes, distilling, learning_rate_for, refusal
from engine.tiers.lora.files import Card
from engine.tiers.lora.gate import Verdict, judging
from engine.tiers.lora.making import questions_for
from engine.tiers.lora.material import gathering
from engine.tiers.lora.serving import Resident
from engine.vault.checkpoints import Checkpoint

PHASES = {"asking": 0.03, "gathering": 0.17, "training": 0.75, "judging": 0.05}  # shares of the time, as measured
STATES = 4  # weights, gradients, and two moments of the optimiser
SPARE_BYTES = 64_000_000  # of disk, that stay free
UNASKED = "the model does not answer rightly what can be asked about it"
REPLACED = "a later memory says something else of the same"


@dataclass(frozen=True, slots=True)
class Limits:
    """`minutes` of the training proper, and `bytes` of memory that it may add; 0: no limit."""

    minutes: float
    bytes: int
    folder: Path  # on the disk where checkpoints and adapters go


@dataclass(frozen=True, slots=True)
class Trained:
    """An adapter with what the gate says of it."""

    config: Any
    tensors: Mapping[str, Any]
    card: Card
    verdict: Verdict
    distilled: Distilled
    subjects: tuple[str, ...]
    left_out: Mapping[str, str]  # by the ids of memories that it was not taught: why


def plan_for(loaded: Loaded, rank: int, steps: int, seed: int, limits: Limits, effort: Effort | None = None) -> Plan:
    """How to train this model; 0 for rank or steps: as it is best."""
    plan, effort = Plan(), effort or Effort()
    count = steps or effort.steps or plan.steps
    return Plan(
        rank=rank or plan.rank,
        alpha=2 * (rank or plan.rank),
        learning_rate=learning_rate_for(loaded.info.parameters),
        steps=count,
        held_steps=count + 1 if effort.whole else plan.held_steps,
        seed=seed,
        checkpoint_steps=effort.checkpoint_steps or plan.checkpoint_steps,
        max_seconds=60 * limits.minutes,
        max_bytes=limits.bytes,
    )


def require_room(loaded: Loaded, plan: Plan, limits: Limits) -> None:
    """Refuse what cannot be trained, or has no room, before anything is computed.

    Raises:
        Unavailable: the model takes no adapters, or the disk is full.
        TooLarge: the adapter alone needs more memory than it may.
    """
    if (why := refusal(loaded)) is not None:
        raise Unavailable(f"{loaded.info.source} cannot be trained: {why}; use another model, or keep memories as text")
    size = adapter_bytes(loaded, plan.rank)
    if limits.bytes and STATES * size > limits.bytes:
        raise TooLarge(
            f"an adapter of rank {plan.rank} takes {STATES * size} bytes to train, more than {limits.bytes}: "
            "use a smaller rank, or raise MEMOS_LORA_MB"
        )
    free = shutil.disk_usage(limits.folder).free
    if free < STATES * size + SPARE_BYTES:
        raise Unavailable(f"the disk has {free} bytes free, too few for an adapter and its checkpoint: make room")


def training(
    loaded: Loaded,
    resident: Resident,
    name: str,
    notes: Sequence[Note],
    plan: Plan,
    checkpoint: Checkpoint,
    replayed: int = 0,
) -> Generator[Stage | Trained, None, None]:
    """The stages, each of `total` 1 with how much of the whole is done, and last of all what came of it.

    `replayed`: as in `engine.tiers.lora.material`.
    """
    base = resident.wearing(None)
    questions = yield from _phase("asking", questions_for(base, notes, (), plan.seed))
    asked = [note for note in notes if questions.probes(note)]  # all of them, and no other, are the adapter's sources
    material = yield from _phase("gathering", gathering(base, asked, questions, plan.seed, replayed=replayed))
    made = yield from _phase("training", distilling(resident, name, material, plan, checkpoint=checkpoint))
    try:
        verdict = yield from _phase("judging", judging(resident, name, asked, questions))
        card = Card(loaded.info.fingerprint, made.digest, verdict.sources, plan.seed, made.steps)
        tensors = {key: tensor.to("cpu").clone() for key, tensor in resident.tensors(name).items()}
        config = resident.config(name)
    finally:
        resident.drop(name)
    subjects = dict.fromkeys(one.subject for note in notes for one in statements(note.text))
    taught = {one.id for one in verdict.sources}
    rest = [note.id for note in notes if note.id not in taught]
    left_out = {id: REPLACED if id in questions.replaced else UNASKED for id in rest}
    yield Trained(config, tensors, card, verdict, made, tuple(subjects), left_out)


def _phase(name: str, steps: Generator[Stage, None, Any]) -> Generator[Stage, None, Any]:
    """The stages of one phase, as shares of the whole that never go back."""
    start = 0.0
    for other, share in PHASES.items():
        if other == name:
            break
        start += share
    furthest = 0.0
    while True:
        try:
            stage = next(steps)
        except StopIteration as stopped:
            return stopped.value
        furthest = max(furthest, min(1.0, stage.done / stage.total if stage.total else 0.0))
        yield Stage(start + PHASES[name] * furthest, 1.0, stage.message)
