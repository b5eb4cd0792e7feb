"""Consolidation: groups of memories that say nearly the same, or contradict each other, proposed for `fuse`.

Candidates are pairs that lie near each other in an index; the rule of `engine.text.claims` says sentence by sentence
what they are to each other. A group may be fused without asking only where nothing can be lost: all its memories are
the same text by that rule, as wholes (a sentence inside a longer text may speak of somebody else, or be denied by the
sentence before it), and no header says what `fuse` would not keep. The executor then fuses them with the keeper's own
words as the content.

Knows no store and no vectors; changes nothing. What must stay true: what is pinned, frozen, or of different kinds,
times or sensitivity is never fused without asking; what the rule cannot tell is never lossless; the same candidates
give the same groups.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import combinations

from cubes import Kind, Memory
from engine.lifecycle.states import LIVE
from engine.text.claims import Relation, compare
from engine.text.sentences import sentences

MOST_SENTENCES = 200  # of a memory; longer ones are documents, of which no two are copies
MOST_IN_GROUP = 20  # more than a person can look over at once
LEAST_SHARED = 0.5  # of the shorter one's sentences, for two memories to be near-copies


class Grouping(StrEnum):
    """Why some memories belong together."""

    COPIES = "copies"  # one of them says all that the others say
    NEAR_COPIES = "near-copies"  # they share most of what they say
    CONTRADICTION = "contradiction"  # they cannot all hold


@dataclass(frozen=True, slots=True)
class Proposal:
    """A group for `fuse`, oldest first. `keeper`: the one that says it all; None: a person should decide."""

    cube: str
    ids: tuple[str, ...]
    grouping: Grouping
    reason: str
    keeper: str | None = None

    @property
    def lossless(self) -> bool:
        """Whether it may be fused without asking."""
        return self.keeper is not None


@dataclass(frozen=True, slots=True)
class _Pair:
    """What two memories are to each other: which of them says all that the other says, what they share and dispute."""

    left_says_all: bool
    right_says_all: bool
    same: bool  # as wholes
    shared: float
    about: str


def proposals(memories: Mapping[str, Memory], near: Iterable[tuple[str, str]]) -> list[Proposal]:
    """Groups among `memories` (by id), from pairs of ids that an index holds to be near.

    Contradictions come first, then near-copies, then what is lossless. No memory is in two groups.
    """
    links: defaultdict[str, set[str]] = defaultdict(set)
    pairs: dict[tuple[str, str], _Pair] = {}
    for one, other in sorted({(min(pair), max(pair)) for pair in near}):
        if one == other or not _comparable(memories.get(one), memories.get(other)):
            continue
        pair = _compared(memories[one].content, memories[other].content)
        if pair.about or pair.left_says_all or pair.right_says_all or pair.shared >= LEAST_SHARED:
            pairs[(one, other)] = pair
            links[one].add(other)
            links[other].add(one)
    found = [_proposal([memories[id] for id in group], pairs) for group in _groups(memories, links)]
    order = [Grouping.CONTRADICTION, Grouping.NEAR_COPIES, Grouping.COPIES]
    return sorted(found, key=lambda proposal: (order.index(proposal.grouping), proposal.cube, proposal.ids))


def _comparable(one: Memory | None, other: Memory | None) -> bool:
    """Whether two may ever be fused: alive, not frozen, of one cube, and no whole of a long text."""
    if one is None or other is None or one.cube != other.cube:
        return False
    return all(m.state in LIVE and not m.governance.frozen and not m.descriptive.parts for m in (one, other))


def _compared(left: str, right: str) -> _Pair:
    said = _sentences(left), _sentences(right)
    if max(map(len, said)) > MOST_SENTENCES:
        return _Pair(False, False, False, 0.0, "")
    matched: tuple[set[int], set[int]] = (set(), set())
    about = ""
    for number, one in enumerate(said[0]):
        for place, other in enumerate(said[1]):
            verdict = compare(one, other)
            if verdict.relation is Relation.SAME:
                matched[0].add(number)
                matched[1].add(place)
            elif verdict.relation is Relation.RIVAL and not about:
                about = verdict.about
    shortest = max(1, min(map(len, said)))
    shared = min(map(len, matched)) / shortest
    same = compare(left, right).relation is Relation.SAME
    return _Pair(len(matched[1]) == len(said[1]), len(matched[0]) == len(said[0]), same, shared, about)


def _sentences(text: str) -> list[str]:
    return [text[start:end].strip() for start, end in sentences(text) if text[start:end].strip()]


def _groups(memories: Mapping[str, Memory], links: Mapping[str, set[str]]) -> list[list[str]]:
    """What hangs together, oldest first, in groups of at most MOST_IN_GROUP."""
    seen: set[str] = set()
    groups = []
    for start in sorted(links, key=lambda id: _age(memories[id])):
        if start in seen:
            continue
        group: list[str] = []
        waiting = [start]
        seen.add(start)
        while waiting and len(group) < MOST_IN_GROUP:
            id = waiting.pop(0)
            group.append(id)
            fresh = sorted(links[id] - seen, key=lambda other: _age(memories[other]))
            seen.update(fresh)
            waiting += fresh
        seen.difference_update(waiting)
        if len(group) > 1:
            groups.append(sorted(group, key=lambda id: _age(memories[id])))
    return groups


def _age(memory: Memory) -> tuple[datetime, str]:
    return memory.descriptive.occurred_at or memory.descriptive.created_at, memory.id


def _proposal(group: list[Memory], pairs: Mapping[tuple[str, str], _Pair]) -> Proposal:
    ids = tuple(memory.id for memory in group)
    among = {pair: found for pair, found in pairs.items() if pair[0] in ids and pair[1] in ids}
    abouts = [pair.about for pair in among.values() if pair.about]
    if abouts:
        told = f"they disagree: {'; '.join(dict.fromkeys(abouts))}"
        return Proposal(group[0].cube, ids, Grouping.CONTRADICTION, told)
    keeper = next((memory.id for memory in reversed(group) if _says_all(memory.id, ids, among)), None)
    if keeper is None:
        return Proposal(group[0].cube, ids, Grouping.NEAR_COPIES, "they share most of what they say")
    told = f"{keeper} says all that the others say"
    if not all((pair := among.get(two)) and pair.same for two in combinations(sorted(ids), 2)):
        return Proposal(group[0].cube, ids, Grouping.COPIES, f"{told}, and more")
    if not _headers_agree(group):
        return Proposal(group[0].cube, ids, Grouping.COPIES, f"{told}, but their headers differ")
    return Proposal(group[0].cube, ids, Grouping.COPIES, told, keeper)


def _says_all(id: str, ids: tuple[str, ...], pairs: Mapping[tuple[str, str], _Pair]) -> bool:
    for other in ids:
        pair = pairs.get((min(id, other), max(id, other)))
        if other != id and (pair is None or not (pair.left_says_all if id < other else pair.right_says_all)):
            return False
    return True


def _headers_agree(group: Sequence[Memory]) -> bool:
    """Whether no header says what the fused memory's will not: tags and priority are joined, a voice is not kept."""
    first = group[0]
    return all(
        not memory.governance.pinned
        and memory.kind is first.kind is not Kind.MESSAGE
        and memory.governance.sensitivity is first.governance.sensitivity
        and memory.governance.expires_at == first.governance.expires_at
        and memory.descriptive.occurred_at == first.descriptive.occurred_at
        and memory.descriptive.origin is first.descriptive.origin
        and memory.descriptive.role is memory.descriptive.actor is memory.descriptive.metadata is None
        for memory in group
    )
