"""Turns an adapter back into text: asks what it may know, and keeps what it asserts beyond the base model.

Each subject is asked in several phrasings. What counts: that most phrasings agree; how sure the adapter is of that
answer in all of them, also in those that say otherwise; how far it is behind the subject of which the adapter says the
same most surely (its lead); and that the base model would not have said so (the margin, in nats a token, which must be
there but says no more). The lead matters because what an adapter learned about one subject it also says, a little less
surely, of its neighbours: nearly all false assertions are of this sort.

The confidence is a logistic function of sureness and lead. It was set with ten adapters of the test model that were
made with the questions of `making` (8 to 64 facts, 5 draws of facts): 98 % of the facts came back, and nothing false.
Of three others (64 facts of a new draw, 25 of an old one with other training, one into which two adapters of together
33 facts were fused) 120 of 122 came back, none false, and the expected calibration error was .013 to .016 of each. A
steeper function fits all of these better still (512 of 515, .005), but trusts adapters too far that were trained for
too short a time: of one, one of nine assertions is false with these coefficients, and two with steeper ones. What
comes back is text with a confidence; nothing here keeps it.
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
    """Confidence = logistic(bias + sureness and lead, both in log odds, each times its coefficient)."""

    bias: float = -7.2
    sureness: float = 3.0
    lead: float = 1.9

    def confidence(self, sureness: float, lead: float = 0.0) -> float:
        return logistic(self.bias + self.sureness * sureness + self.lead * lead)


@dataclass(frozen=True, slots=True)
class Asserted:
    """Something that an adapter says and the base does not. `text` is how a memory would say it."""

    key: str
    answer: str
    text: str
    confidence: float
    agreement: float  # share of the phrasings
    sureness: float  # the probability of a token, 0 to 1, over all phrasings
    lead: float  # log odds, 0 or less: behind the subject of which it says the same most surely
    margin: float  # nats a token by which it is surer than the base


@dataclass(frozen=True, slots=True)
class _Told:
    """What is said of a subject in most phrasings, with the tokens that say it first."""

    subject: Subject
    tokens: tuple[int, ...]
    text: str
    agreement: float


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
    asserted = [
        made
        for one, said in told
        if (made := _agreed(sweep, one, [said, *(next(others) for _ in one.phrasings[1:])])) is not None
    ]
    sure = yield from _sureness(worn, asserted, "how sure the adapter is")
    unworn = yield from _sureness(base, asserted, "comparing with the base")
    best: dict[str, float] = {}
    for one, (odds, _) in zip(asserted, sure, strict=True):
        best[one.text] = max(odds, best.get(one.text, odds))
    kept = []
    for one, (odds, nats), (_, base_nats) in zip(asserted, sure, unworn, strict=True):
        lead, margin = odds - best[one.text], nats - base_nats
        confidence = calibration.confidence(odds, lead)
        if margin >= LEAST_MARGIN and confidence >= least_confidence:
            text = sweep.stated(one.subject, one.text)
            kept.append(
                Asserted(one.subject.key, one.text, text, confidence, one.agreement, logistic(odds), lead, margin)
            )
    return sorted(kept, key=lambda one: (-one.confidence, one.key))


def logistic(odds: float) -> float:
    return 1 / (1 + exp(-max(-30.0, min(30.0, odds))))


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


def _agreed(sweep: Sweep, subject: Subject, answers: Sequence[Said]) -> _Told | None:
    """What enough of the answers say, if it is something."""
    text, times = Counter(each.text for each in answers).most_common(1)[0]
    if not text or sweep.refuses(text) or times / len(answers) < LEAST_AGREEMENT:
        return None
    return _Told(subject, next(each.tokens for each in answers if each.text == text), text, times / len(answers))


def _sureness(loaded: Loaded, told: Sequence[_Told], message: str) -> Generator[Stage, None, list[tuple[float, float]]]:
    """How sure the model is of each answer, over all phrasings: log odds of a token, and nats a token."""
    asked = [(one, phrasing) for one in told for phrasing in one.subject.phrasings]
    rows = [(prompt_ids(loaded, phrasing), one.tokens) for one, phrasing in asked]
    found: list[list[float]] = [[] for _ in told]
    place_of = {id(one): place for place, one in enumerate(told)}
    done = 0
    for places, logits in predicted(loaded, rows):
        for place, said in zip(places, logits, strict=True):
            one, _ = asked[place]
            chosen = torch.tensor(one.tokens, device=said.device)[:, None]
            nats = float(torch.log_softmax(said.float(), -1).gather(-1, chosen).sum()) / len(one.tokens)
            found[place_of[id(one)]].append(nats)
        done += len(places)
        yield Stage(done, len(rows), message)
    return [(sum(map(_log_odds, nats)) / len(nats), sum(nats) / len(nats)) for nats in found]


def _log_odds(nats: float) -> float:
    sure = min(1 - FLOOR, max(FLOOR, exp(nats)))
    return log(sure / (1 - sure))
