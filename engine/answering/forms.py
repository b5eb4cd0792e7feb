"""In which form each recalled memory reaches the model: text, its own KV cache, or an adapter that knows it. Pure.

A chunk saves prefill, and is not exact: the tokens of one memory do not see those of another unless they are computed
anew. So it is taken only where it pays, where it was measured to be close enough, and where no two of the memories say
something about the same thing: there the model has to read one in the light of the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, product

from engine.model_operations import Form, Tier
from engine.text.words import stems

PASS_TOKENS = 24  # what one more forward pass costs, as prefilled tokens
CHUNK_TOKENS = 4  # what loading and rotating one chunk costs, as prefilled tokens
WORTH_TOKENS = 32  # a memory of fewer is not worth a chunk by itself
NO_ADAPTER = "no adapter of the model holds these memories: they were read as text"
SHARED = 0.5  # of the content words of the shorter of two memories: from there on they may be about the same thing


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recalled memory. `divergence` is that of its chunk in nats; None: there is no chunk, or it is not known."""

    id: str
    text: str
    tokens: int
    has_chunk: bool
    divergence: float | None = None
    rivals: frozenset[str] = frozenset()  # memories that it supersedes or contradicts, as far as the vault knows


@dataclass(frozen=True, slots=True)
class Choice:
    """The form of each memory by id, and what is to be said of it."""

    forms: Mapping[str, Form]
    remarks: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()  # memories whose chunk would have been used if there were one


def same_matter(a: str, b: str) -> bool:
    """Whether two texts may speak of the same thing: they share at least half of the shorter one's content words."""
    return _share(frozenset(stems(a)), frozenset(stems(b)))


def _share(words_a: frozenset[str], words_b: frozenset[str]) -> bool:
    least = min(len(words_a), len(words_b))
    return least > 0 and len(words_a & words_b) >= SHARED * least


def entangled(candidates: Sequence[Candidate], others: Sequence[Candidate] = ()) -> bool:
    """Whether any two (of `candidates`, or one of them and one of `others`) update or contradict each other, or may."""
    words = {one.id: frozenset(stems(one.text)) for one in (*candidates, *others)}  # once, and not for each pair
    pairs = chain(combinations(candidates, 2), product(candidates, others))
    return any(b.id in a.rivals or a.id in b.rivals or _share(words[a.id], words[b.id]) for a, b in pairs)


def left_out(recalled: Sequence[Candidate], pinned: Sequence[Candidate], known: Collection[str]) -> frozenset[str]:
    """Those of the recalled memories that an adapter knows and that need not be read: nothing that is read, or pinned,
    may speak of the same thing, and nothing at all updates or contradicts them.
    """
    words = {one.id: frozenset(stems(one.text)) for one in (*recalled, *pinned)}
    disputed = {
        id
        for one in (*recalled, *pinned)
        for other in (*recalled, *pinned)
        if other.id in one.rivals
        for id in (one.id, other.id)
    }
    out = {one.id for one in recalled if one.id in known and one.id not in disputed}
    while True:
        read = [one.id for one in (*recalled, *pinned) if one.id not in out]
        back = {id for id in out if any(_share(words[id], words[other]) for other in read)}
        if not back:
            return frozenset(out)
        out -= back


def choose(
    candidates: Sequence[Candidate],
    pinned: Sequence[Candidate],
    tiers: Sequence[Tier],
    *,
    share: float,
    bound: float,
    refusal: str | None,
) -> Choice:
    """The forms of the recalled memories; those of `pinned` are read beside them.

    `share` of each chunk's tokens is recomputed; chunks that diverge by more than `bound` (mean KL in nats) are not
    used; `refusal` says why chunks cannot be used at all. Chunks are used whatever they cost when `tiers` has no text.
    """
    text = Choice({candidate.id: Form.TEXT for candidate in candidates})
    if not candidates or Tier.KV not in tiers:
        return text if not candidates or Tier.TEXT in tiers else Choice(text.forms, (NO_ADAPTER,))
    if refusal is not None:
        return Choice(text.forms, (refusal,))
    if entangled(candidates, pinned):
        return Choice(text.forms, ("memories speak of the same thing: the exact form was taken",))
    near, far, unknown = list[Candidate](), list[Candidate](), list[Candidate]()
    for one in candidates:
        if one.has_chunk:
            (unknown if one.divergence is None else near if one.divergence <= bound else far).append(one)
    forced = Tier.TEXT not in tiers
    there = {one.id for one in (*near, *far)}
    lacking = tuple(c.id for c in candidates if c.id not in there and (forced or c.tokens >= WORTH_TOKENS))
    remarks = [_too_far(far, bound)] if far else []
    if unknown:
        remarks.append(f"how far the KV cache of {_ids(unknown)} diverges is unknown here: read as text")
    absent = [one for one in candidates if not one.has_chunk]
    if forced and absent:
        remarks.append(f"no KV cache of {_ids(absent)} is there yet: read as text")
    if not forced and saved_tokens(near, share) <= 0:
        return Choice(text.forms, tuple(remarks), lacking)
    chunks = {candidate.id: Form.CHUNK for candidate in near}
    return Choice({**text.forms, **chunks}, tuple(remarks), lacking)


def saved_tokens(chunks: Sequence[Candidate], share: float) -> float:
    """How many tokens of prefill these chunks save, after what using them costs."""
    return sum((1 - share) * chunk.tokens - CHUNK_TOKENS for chunk in chunks) - (PASS_TOKENS if share > 0 else 0)


def _too_far(far: Sequence[Candidate], bound: float) -> str:
    most = max(candidate.divergence or 0.0 for candidate in far)
    return f"the KV cache of {_ids(far)} diverges by {most:.3f} nats, more than {bound:g}: read as text"


def _ids(candidates: Sequence[Candidate]) -> str:
    return ", ".join(candidate.id for candidate in candidates)
