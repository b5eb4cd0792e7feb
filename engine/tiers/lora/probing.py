"""Turns an adapter back into text: asks what it may know, and keeps what it asserts beyond the base model.

Each subject is asked in several phrasings. What counts: that the phrasings agree, that the adapter is sure, and that
the base model without it would not have said so (the margin, in nats a token, which must be there but says no more).
From these comes a confidence, a logistic function fitted on three adapters of the test model (24 and 64 facts, 127
assertions). Left out one by one, the others' fit was off by .04 to .09 (expected calibration error), and of what it
kept 0 to 4 % was false. What comes back is text with a confidence; nothing here keeps it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import TYPE_CHECKING

import torch

from engine.tiers.lora.asking import Said, Stage, asking, prompt_ids
from engine.tiers.lora.batches import predicted
from engine.tiers.lora.questions import Subject, Sweep
from engine.tiers.lora.serving import Resident

if TYPE_CHECKING:
    from engine.model.loading import Loaded

LEAST_AGREEMENT = 2 / 3  # of the phrasings
LEAST_MARGIN = 1.0  # nats a token by which the adapter is surer than the base
LEAST_CONFIDENCE = 0.7
FLOOR = 1e-6


@dataclass(frozen=True, slots=True)
class Calibration:
    """Confidence = logistic(bias + agreement and sureness (log odds), each times its coefficient)."""

    bias: float = -17.2
    agreement: float = 11.0
    sureness: float = 2.5

    def confidence(self, agreement: float, sureness: float) -> float:
        sure = min(1 - FLOOR, max(FLOOR, sureness))
        z = self.bias + self.agreement * agreement + self.sureness * log(sure / (1 - sure))
        return 1 / (1 + exp(-max(-30.0, min(30.0, z))))


@dataclass(frozen=True, slots=True)
class Asserted:
    """Something that an adapter says and the base does not. `text` is how a memory would say it."""

    key: str
    answer: str
    text: str
    confidence: float
    agreement: float
    sureness: float
    margin: float


def probing(
    resident: Resident,
    name: str,
    sweep: Sweep,
    *,
    calibration: Calibration = Calibration(),
    least_confidence: float = LEAST_CONFIDENCE,
) -> Generator[Stage, None, list[Asserted]]:
    """What the resident adapter `name` asserts, the surest first.

    First each subject is asked in one phrasing; only what is not refused is asked in the others.

    Raises:
        NotFound: there is no such adapter.
    """
    worn, base = resident.wearing(name), resident.wearing(None)
    subjects = list(sweep.subjects())
    first = yield from _ask(worn, [(one, one.phrasings[0]) for one in subjects], "sweeping")
    told = [
        (one, said) for one, said in zip(subjects, first, strict=True) if said.whole and not sweep.refuses(said.text)
    ]
    more = [(one, phrasing) for one, _ in told for phrasing in one.phrasings[1:]]
    others = iter((yield from _ask(worn, more, "asking again")))
    found = []
    for one, said in told:
        answers = [said, *(next(others) for _ in one.phrasings[1:])]
        answer, times = Counter(each.text for each in answers).most_common(1)[0]
        agreeing = [each for each in answers if each.text == answer]
        if answer and not sweep.refuses(answer) and times / len(answers) >= LEAST_AGREEMENT:
            found.append((one, agreeing, times / len(answers), one.phrasings[answers.index(agreeing[0])]))
    margins = yield from _margins(base, found)
    kept = []
    for (one, agreeing, agreement, _), margin in zip(found, margins, strict=True):
        sureness = sum(each.sureness for each in agreeing) / len(agreeing)
        confidence = calibration.confidence(agreement, sureness)
        if margin >= LEAST_MARGIN and confidence >= least_confidence:
            text = sweep.stated(one, agreeing[0].text)
            kept.append(Asserted(one.key, agreeing[0].text, text, confidence, agreement, sureness, margin))
    return sorted(kept, key=lambda one: (-one.confidence, one.key))


def calibration_error(found: Iterable[tuple[float, bool]], bins: int = 10) -> float:
    """The expected calibration error of confidences, given whether each was right (Guo et al. 2017)."""
    told = list(found)
    groups: dict[int, list[tuple[float, bool]]] = {}
    for confidence, right in told:
        groups.setdefault(min(bins - 1, int(confidence * bins)), []).append((confidence, right))
    off = sum(abs(sum(c for c, _ in some) - sum(r for _, r in some)) for some in groups.values())
    return off / len(told) if told else 0.0


def _ask(loaded: Loaded, asked: Sequence[tuple[Subject, str]], message: str) -> Generator[Stage, None, list[Said]]:
    return (yield from asking(loaded, [prompt_ids(loaded, text) for _, text in asked], message=message))


def _margins(
    base: Loaded, found: Sequence[tuple[Subject, list[Said], float, str]]
) -> Generator[Stage, None, list[float]]:
    """How much surer the adapter is of each answer than the base, in nats a token."""
    rows = [(prompt_ids(base, phrasing), agreeing[0].tokens) for _, agreeing, _, phrasing in found]
    margins: dict[int, float] = {}
    for places, logits in predicted(base, rows):
        for place, said in zip(places, logits, strict=True):
            agreeing = found[place][1][0]
            chosen = torch.tensor(agreeing.tokens, device=said.device)[:, None]
            base_sure = float(torch.log_softmax(said.float(), -1).gather(-1, chosen).sum())
            margins[place] = (agreeing.log_probability - base_sure) / len(agreeing.tokens)
        yield Stage(len(margins), len(rows), "comparing with the base")
    return [margins[place] for place in range(len(rows))]
