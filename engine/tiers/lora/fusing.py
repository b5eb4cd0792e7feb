"""Makes one adapter of several: combinations of their weights, healed by some steps of training, chosen by the gate.

Candidates come in the order of what they cost: PEFT's combinations (linear, cat, ties, dare) and `svd`, by a QR of the
factors. Only the likeliest is healed: on the test model a combination alone knows too little of both, and svd with
healing all of it. What the gate lets pass first is taken; the last way is training anew on all the memories, and the
result says which it was. When none passes it is the best of them, and its verdict says that it failed. What must stay
true: of all candidates at most the chosen one stays resident, and the parts are as they were.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from peft import LoraConfig

from engine.errors import Invalid
from engine.model.prompts import Note
from engine.tiers.lora.asking import Stage, share_of
from engine.tiers.lora.distil import Distilled, Plan, distilling
from engine.tiers.lora.factors import scaling_of, svd_sum
from engine.tiers.lora.files import MOST_RANK, Card, Source, digest_of
from engine.tiers.lora.gate import Limits, Verdict, asking_base, judging
from engine.tiers.lora.material import Material, gathering
from engine.tiers.lora.questions import Questions
from engine.tiers.lora.serving import Resident

SVD, LINEAR, CAT, TIES, DARE, HEALED, RETRAINED = (
    "svd",
    "linear",
    "cat",
    "ties",
    "dare_linear",
    "svd+healed",
    "retrained",
)
COMBINATIONS = (SVD, CAT, LINEAR, TIES, DARE)
BASE = "base"
COSTS = {HEALED: 10, RETRAINED: 20}  # about, against judging what was merely combined
DENSITY = {TIES: 0.5, DARE: 0.7}  # of the weights that ties and dare keep
HEALING = Plan(learning_rate=3e-3, steps=120, warm_up=5)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate and what the gate found."""

    how: str
    verdict: Verdict
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Fused:
    """The adapter `name`, how it was made, and all that was tried on the way."""

    name: str
    how: str
    verdict: Verdict
    tried: tuple[Tried, ...]


def fusing(
    resident: Resident,
    name: str,
    parts: Sequence[str],
    notes: Sequence[Note],
    questions: Questions,
    *,
    rank: int = 0,
    hows: Sequence[str] = (SVD, HEALED, RETRAINED),
    healing: Plan = HEALING,
    plan: Plan = Plan(),  # noqa: B008 - it is immutable
    limits: Limits = Limits(),  # noqa: B008 - it is immutable
    replayed: int = 0,
) -> Generator[Stage, None, Fused]:
    """Fuse resident adapters into one of `rank` (0: the sum of theirs) that knows `notes`, the memories of all.

    `replayed`: as in `engine.tiers.lora.material`.

    The adapter may fail the gate all the same: the verdict says so.

    Raises:
        Invalid: fewer than two parts, or there is no such way.
        NotFound, Conflict: a part is not resident, or there is an adapter of that name.
    """
    if len(parts) < 2 or not hows or set(hows) - {*COMBINATIONS, HEALED, RETRAINED}:
        raise Invalid(
            f"fusing takes at least two adapters and ways among {', '.join((*COMBINATIONS, HEALED, RETRAINED))}"
        )
    whole_rank = sum(resident.config(part).r for part in parts)
    rank = min(rank or whole_rank, MOST_RANK)
    hows = [how for how in hows if how != CAT or whole_rank <= MOST_RANK] or [SVD]  # more is served nowhere
    tried: list[Tried] = []
    material: Material | None = None
    best: tuple[str, Tried] | None = None
    made: list[str] = []
    costs = {BASE: 1} | {how: COSTS.get(how, 1) for how in hows}
    whole, start = sum(costs.values()), 0.0

    def part(what: str, share: float, steps: Generator[Stage, None, T]) -> Generator[Stage, None, T]:
        nonlocal start
        begin, start = start, start + share * costs[what] / whole
        return share_of(begin, start - begin, steps)

    try:
        base = yield from part(BASE, 1.0, asking_base(resident, notes, questions))
        for how in hows:
            candidate, steps = f"{name}-{len(tried)}", 0
            if how in COMBINATIONS:
                combined(resident, candidate, parts, [1.0] * len(parts), how, rank)
            else:
                if material is None:
                    gathered = gathering(resident.wearing(None), notes, questions, plan.seed, replayed=replayed)
                    material = yield from part(how, 0.3, gathered)
                steps = yield from part(
                    how, 0.5, _trained(resident, candidate, parts, material, how, rank, healing, plan)
                )
            made.append(candidate)
            judged = judging(resident, candidate, notes, questions, limits, base=base)
            verdict = yield from part(how, 0.2 if how not in COMBINATIONS else 1.0, judged)
            tried.append(Tried(how, verdict, steps))
            if best is None or tried[-1].verdict.standing > best[1].verdict.standing:
                best = candidate, tried[-1]
            if best[1].verdict.passed:
                break
        assert best is not None
        _named(resident, best[0], name, best[1], parts)
        return Fused(name, best[1].how, best[1].verdict, tuple(tried))
    finally:
        for candidate in made:
            resident.drop(candidate)


def combined(
    resident: Resident, name: str, parts: Sequence[str], weights: Sequence[float], how: str, rank: int
) -> None:
    """A combination of resident adapters' weights, resident as `name`; nothing is trained or judged."""
    if how == SVD:
        with torch.inference_mode(False), torch.no_grad():
            told = [(resident.tensors(part), _scaling(resident.config(part))) for part in parts]
            tensors = svd_sum(told, weights, rank)
        resident.add(name, _config(resident, parts, rank), tensors)
        return
    settings: dict[str, Any] = {"density": DENSITY[how]} if how in DENSITY else {}
    devices = [resident.base.model.device] if resident.base.model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # dare drops weights by chance
        torch.manual_seed(0)
        resident.combine(name, parts, weights, how, **settings)


def _trained(
    resident: Resident,
    name: str,
    parts: Sequence[str],
    material: Material,
    how: str,
    rank: int,
    healing: Plan,
    plan: Plan,
) -> Generator[Stage, None, int]:
    if how == RETRAINED:
        done: Distilled = yield from distilling(resident, name, material, plan)
        return done.steps
    combined(resident, name, parts, [1.0] * len(parts), SVD, rank)
    start = resident.config(name), {key: tensor.clone() for key, tensor in resident.tensors(name).items()}
    resident.drop(name)
    done = yield from distilling(resident, name, material, replace(healing, rank=rank, alpha=rank), start=start)
    return done.steps


def _named(resident: Resident, candidate: str, name: str, tried: Tried, parts: Sequence[str]) -> None:
    """The chosen candidate under its own name, held still."""
    config, tensors = resident.config(candidate), {k: t.clone() for k, t in resident.tensors(candidate).items()}
    parents = tuple(resident.known(part).digest or "" for part in parts)
    sources = tuple(Source(one.id, one.version, one.known) for one in tried.verdict.memories)
    model = resident.base.info.fingerprint
    card = Card(model, digest_of(config, tensors), sources, steps=tried.steps, made=tried.how, parents=parents)
    resident.add(name, config, tensors, card)


def _config(resident: Resident, parts: Sequence[str], rank: int) -> LoraConfig:
    first = resident.config(parts[0])
    modules = {one for part in parts for one in resident.config(part).target_modules}
    return LoraConfig(
        r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=sorted(modules), task_type=first.task_type
    )


def _scaling(config: LoraConfig) -> float:
    return scaling_of(config.lora_alpha, config.r, rank_stabilised=bool(config.use_rslora))
