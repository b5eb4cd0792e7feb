"""Distils material into a LoRA adapter: KL to the teacher's distribution, in steps that a background job can take.

The student is the model through an adapter of its own, the base is shared and never changes, so training needs little
more than the adapter and runs beside conversations: each optimiser step is one step of the job. It leaves the model
thread's inference mode for that step alone. The same material, plan and seed give the same weights on the same kind of
machine: rows of each step are drawn by the seed and the number of the step, so a run that goes on from a checkpoint
ends as if it had never stopped.

What must stay true: a run that is cancelled or fails leaves neither an adapter nor a checkpoint; only a process that
ends in the midst of it leaves one. Training ends early when the student says everything as the teacher does. Learning
rate and mixture were measured on the test model: 64 facts in some 350 steps and 40 s of one core, all of them known,
.985 and more of phrasings never trained with, .99 of answers over other contexts as before. With 256 rows of each kind
to hold the model still instead of 3,072 these were learned by heart: .91 of answers over other contexts, .89 of
refusals.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig
from transformers.pytorch_utils import Conv1D

from engine.errors import Invalid, TooLarge
from engine.tiers.lora import checkpoints
from engine.tiers.lora.asking import Stage, Target
from engine.tiers.lora.batches import PIECE_TOKENS, logits_of, pieces
from engine.tiers.lora.files import Card, Source, digest_of
from engine.tiers.lora.material import BESIDE, CONFLICT, MEMORY, SCENE, UNKNOWN, Material, Row
from engine.tiers.lora.serving import Resident
from engine.vault.checkpoints import Checkpoint

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from engine.model.loading import Loaded
    from engine.tiers.lora.serving import Adapter

SHARES = ((MEMORY, 0.25), (BESIDE, 0.1), (UNKNOWN, 0.2), (SCENE, 0.35), (CONFLICT, 0.1))
"""Of the rows of a step. Without those that hold the model still, it forgets how to read its context in 50 steps."""
FINAL_RATE = 0.05  # of the learning rate, at the end
LEAST_REST = 1e-6
HELD = 0.995  # of the rows as taught: the adapter holds
LEARNING_RATE, MEASURED_PARAMETERS = 7e-3, 160_000  # measured on the test model
LEAST_RATE = 2e-4


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train. `max_seconds` and `max_bytes` 0: no limit."""

    rank: int = 8
    alpha: int = 16
    learning_rate: float = LEARNING_RATE
    steps: int = 400
    batch: int = 48
    warm_up: int = 10
    seed: int = 0
    held_steps: int = 40  # in which next to all rows were as taught end the training early …
    cool_down: int = 40  # … after so many more, in which the learning rate goes down
    max_seconds: float = 0.0
    max_bytes: int = 0
    piece_tokens: int = PIECE_TOKENS
    checkpoint_steps: int = 100  # a checkpoint is written after so many …
    checkpoint_seconds: float = 60.0  # … or after so long, whichever comes first


@dataclass(frozen=True, slots=True)
class Distilled:
    """An adapter that was made; nothing says yet that it knows anything."""

    name: str
    digest: str
    steps: int
    seconds: float
    loss: float  # KL in nats a token, over the last steps
    held: float  # share of the last rows whose every token was the teacher's
    ended: str  # "steps", "early" or "time"
    bytes: int
    peak_bytes: int  # what training added to the memory of the process, 0: not known
    untaught: tuple[str, ...]  # memories whose teacher was never right


def distilling(
    resident: Resident,
    name: str,
    material: Material,
    plan: Plan = Plan(),
    *,
    start: tuple[LoraConfig, Mapping[str, torch.Tensor]] | None = None,
    checkpoint: Checkpoint | None = None,
    clock: Callable[[], float] = time.monotonic,
    peak: Callable[[], int] | None = None,
) -> Generator[Stage, None, Distilled]:
    """Train an adapter, from `start` or from nothing; it is resident in the end, under `name`.

    `peak` tells the most memory that was in use so far; None: `peak_bytes`.

    Raises:
        TooLarge: it needs more memory than `plan.max_bytes`.
        Invalid: the plan makes no sense, or training went astray.
        Conflict: there is an adapter of that name.
    """
    if min(plan.rank, plan.steps, plan.batch, plan.piece_tokens) < 1 or plan.learning_rate <= 0:
        raise Invalid("a plan has a rank, steps, a batch and a learning rate above 0: correct it")
    adapter = _fresh(resident, name, plan, start)
    try:
        run = _Run(resident, adapter, material, plan, checkpoint, clock, peak or peak_bytes)
        yield from run.steps()
        return run.finished()
    except BaseException:  # cancelled, failed or closed: nothing stays
        resident.drop(name)
        raise
    finally:
        if checkpoint is not None:
            checkpoint.end()


def learning_rate_for(parameters: int) -> float:
    """A learning rate for a model of another size: larger models want smaller ones, by the fourth root of their size.

    Only the test model's was measured; the gate judges what came of it.
    """
    return float(
        min(LEARNING_RATE, max(LEAST_RATE, LEARNING_RATE * (MEASURED_PARAMETERS / max(1, parameters)) ** 0.25))
    )


def adapter_config(plan: Plan) -> LoraConfig:
    return LoraConfig(
        r=plan.rank, lora_alpha=plan.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def refusal(loaded: Loaded) -> str | None:
    """Why a model takes no LoRA adapter; None: it does."""
    if not _adapted(loaded):
        return f"{loaded.info.family} has no linear layers that LoRA could adapt"
    return None


def adapter_bytes(loaded: Loaded, rank: int) -> int:
    """How large an adapter of that rank is: two thin matrices for each linear layer."""
    width = sum(sum(weights.shape) for weights in _adapted(loaded))
    return int(rank * width * torch.float32.itemsize)


def _adapted(loaded: Loaded) -> list[torch.Tensor]:
    """The weights of the layers that `all-linear` stands for: all but the one that gives the logits."""
    head = loaded.model.get_output_embeddings()
    return [
        part.weight
        for part in loaded.model.modules()
        if isinstance(part, torch.nn.Linear | Conv1D) and part is not head and part.weight.ndim == 2
    ]


def _fresh(
    resident: Resident, name: str, plan: Plan, start: tuple[LoraConfig, Mapping[str, torch.Tensor]] | None
) -> Adapter:
    device = resident.base.model.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(plan.seed)
        return resident.add(name, *(start or (adapter_config(plan), None)))


class _Run:
    """One training, from the first step to the last."""

    def __init__(
        self,
        resident: Resident,
        adapter: Adapter,
        material: Material,
        plan: Plan,
        checkpoint: Checkpoint | None,
        clock: Callable[[], float],
        peak: Callable[[], int],
    ) -> None:
        self._resident, self._adapter, self._material, self._plan = resident, adapter, material, plan
        self._checkpoint, self._clock, self._peak = checkpoint, clock, peak
        self._parameters = resident.parameters(adapter.name)
        self._model = resident.wearing(adapter.name).model
        self._optimizer = torch.optim.AdamW(self._parameters, lr=plan.learning_rate, weight_decay=0.0)
        self._decks = {kind: rows for kind, rows in material.rows.items() if rows}
        self._orders: dict[str, tuple[int, Sequence[int]]] = {}  # of each deck: how often it was used up, its order
        self._begun, self._before = clock(), peak()
        self._saved_at = time.monotonic()
        self._losses: list[float] = []
        self._held: list[float] = []
        self._last = plan.steps  # the step behind the last
        self._cooling_from: int | None = None
        self._ended = "steps"
        self._done = 0
        self._key = checkpoints.key_of(plan, material, resident.base.info.fingerprint)

    def steps(self) -> Generator[Stage, None, None]:
        if self._checkpoint is not None:
            self._resume(self._checkpoint)
        while self._done < self._last:
            with torch.inference_mode(False), torch.enable_grad():
                self._step(self._done)
            self._done += 1
            self._decide()
            if self._checkpoint is not None and self._is_due():
                self._save(self._checkpoint)
            yield Stage(self._done, self._last, f"training: KL {self._losses[-1]:.4f}, {self._held[-1]:.0%} as taught")

    def finished(self) -> Distilled:
        name, plan = self._adapter.name, self._plan
        tensors = self._resident.tensors(name)
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise Invalid("training went astray: lower the learning rate")
        digest = digest_of(self._resident.config(name), tensors)
        sources = tuple(Source(note.id, note.version) for note in self._material.notes)
        model = self._resident.base.info.fingerprint
        self._resident.finish(name, Card(model, digest, sources, plan.seed, self._done))
        recent = slice(-plan.held_steps, None)
        return Distilled(
            name,
            digest,
            self._done,
            self._clock() - self._begun,
            _mean(self._losses[recent]),
            _mean(self._held[recent]),
            self._ended,
            self._adapter.bytes,
            max(0, self._peak() - self._before),
            tuple(note.id for note in self._material.untaught),
        )

    def _step(self, number: int) -> None:
        rows = self._drawn(number)
        tokens = sum(len(row.answer) for row in rows)
        losses, held = 0.0, 0
        for places in pieces([len(row.prompt) + len(row.answer) for row in rows], self._plan.piece_tokens):
            some = [rows[place] for place in places]
            said = logits_of(self._model, [(row.prompt, row.answer) for row in some])
            kl = _kl(torch.cat(said), [row.target for row in some]) / tokens
            kl.backward()
            losses += float(kl.detach())
            held += _as_taught(said, some)
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(number)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._losses.append(losses)
        self._held.append(held / len(rows))

    def _drawn(self, number: int) -> list[Row]:
        """The rows of a step: of each kind its share, each row of a kind once before any comes twice."""
        present = [(kind, share) for kind, share in SHARES if kind in self._decks]
        whole = sum(share for _, share in present)
        rows: list[Row] = []
        for kind, share in present:
            count = max(1, round(self._plan.batch * share / whole))
            rows += self._dealt(kind, number * count, count)
        return rows

    def _dealt(self, kind: str, start: int, count: int) -> list[Row]:
        """Cards `start` to `start + count` of a deck that is shuffled anew each time it is used up."""
        deck, dealt = self._decks[kind], list[Row]()
        while len(dealt) < count:
            turn, place = divmod(start + len(dealt), len(deck))
            if self._orders.get(kind, (-1, ()))[0] != turn:
                order = list(range(len(deck)))
                random.Random(f"{self._plan.seed} {kind} {turn}").shuffle(order)
                self._orders[kind] = turn, order
            dealt += [deck[one] for one in self._orders[kind][1][place : place + count - len(dealt)]]
        return dealt

    def _rate(self, number: int) -> float:
        warm = min(1.0, (number + 1) / self._plan.warm_up) if self._plan.warm_up else 1.0
        share = 1 - (1 - FINAL_RATE) * number / self._plan.steps
        if self._cooling_from is not None:
            share *= (self._last - number) / (self._last - self._cooling_from)
        return self._plan.learning_rate * warm * share

    def _decide(self) -> None:
        """Whether training goes on, cools down, or ends."""
        plan = self._plan
        if plan.max_bytes and (added := self._peak() - self._before) > plan.max_bytes:
            raise TooLarge(f"training added {added} bytes, more than {plan.max_bytes}: use a smaller batch or rank")
        if plan.max_seconds and self._clock() - self._begun > plan.max_seconds:
            self._last, self._ended = self._done, "time"
        recent = self._held[-plan.held_steps :]
        if self._cooling_from is None and len(recent) >= plan.held_steps and _mean(recent) >= HELD:
            rest = min(plan.cool_down, plan.steps - self._done)
            self._cooling_from, self._last, self._ended = self._done, self._done + rest, "early"

    def _is_due(self) -> bool:
        plan, since = self._plan, time.monotonic() - self._saved_at
        return self._done % plan.checkpoint_steps == 0 or since >= plan.checkpoint_seconds

    def _save(self, place: Checkpoint) -> None:
        self._saved_at = time.monotonic()
        state = checkpoints.Progress(self._done, self._last, self._cooling_from, self._losses, self._held)
        checkpoints.save(place, self._key, self._parameters, self._optimizer, state)

    def _resume(self, place: Checkpoint) -> None:
        state = checkpoints.restore(place, self._key, self._parameters, self._optimizer)
        if state is None:
            return
        self._done, self._last, self._cooling_from = state.done, state.last, state.cooling_from
        self._losses, self._held = list(state.losses), list(state.held)
        self._ended = "steps" if state.cooling_from is None else "early"


def _kl(logits: torch.Tensor, targets: Sequence[Target]) -> torch.Tensor:
    """KL(teacher ‖ student) of answers, summed over their tokens; what a target does not name is one event."""
    said = torch.log_softmax(logits.float(), -1)
    ids = torch.cat([one.ids for one in targets]).to(logits.device)
    wanted = torch.cat([one.log_probabilities for one in targets]).to(logits.device)
    found = said.gather(-1, ids)
    kl = (wanted.exp() * (wanted - found)).sum(-1)
    if ids.shape[-1] < logits.shape[-1]:
        rest = (1 - wanted.exp().sum(-1)).clamp_min(LEAST_REST)
        left = (1 - found.exp().sum(-1)).clamp_min(LEAST_REST)
        kl = kl + rest * (rest.log() - left.log())
    return kl.sum()


def _as_taught(logits: Sequence[torch.Tensor], rows: Sequence[Row]) -> int:
    """How many answers are the teacher's, token by token."""
    said, place, held = torch.cat(list(logits)).argmax(-1).tolist(), 0, 0
    for row in rows:
        held += said[place : place + len(row.answer)] == list(row.answer)
        place += len(row.answer)
    return held


def peak_bytes() -> int:
    """The most memory that this process, or its GPU, had in use so far; 0 where the system does not say."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        return 0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
