"""What new memories repeat or contradict, found out before the transaction that stores them.

Each is compared with what the index of its cube finds most like it, and with those that came in beside it. Whether what
was compared still stands is for the transaction to see.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cubes import Kind, Sensitivity
from engine.operations import Recall
from engine.parts import Parts, content_key
from engine.reader import Draft
from engine.recall import rank
from engine.text.claims import Relation as Claim
from engine.text.claims import compare
from engine.text.words import stems
from engine.vault import queries

RIVALS_LOOKED_AT = 6  # similar memories that a new one is compared with
MAX_RIVAL_QUERY_CHARS = 2_000
CLAIMS = (Kind.FACT, Kind.PREFERENCE, Kind.EVENT, Kind.PROCEDURE)  # what one memory may repeat or contradict


@dataclass(frozen=True, slots=True)
class Prepared:
    """A draft with what was found out before the transaction."""

    draft: Draft
    key: int
    same: dict[str, int]  # memories that say the same: id -> version that was compared
    rivals: dict[str, int]  # memories that it contradicts
    same_here: tuple[int, ...] = ()  # numbers of the drafts before it that say the same
    rivals_here: tuple[int, ...] = ()  # numbers of the drafts before it that it contradicts


def _key(parts: Parts, draft: Draft) -> int:
    if draft.session is not None and draft.position is not None:
        return content_key(parts.vault, draft.content, draft.session, draft.position)
    return content_key(parts.vault, draft.content)


def is_claim(draft: Draft) -> bool:
    """Whether it says something that another memory may repeat or contradict: turns and pieces of a text do not."""
    return draft.kind in CLAIMS and draft.part_of is None


def prepare(parts: Parts, cube: str, drafts: Sequence[Draft], seen: frozenset[Sensitivity]) -> list[Prepared]:
    """Compare each draft with what is `seen` of the cube; the transaction only has to see that this still stands."""
    similar = [alike(parts, cube, draft, seen) for draft in drafts]
    ids = list(dict.fromkeys(id for found in similar for id in found))
    with parts.vault.reading() as connection:
        known = queries.contents(connection, ids)
    prepared = []
    for draft, found, beside in zip(drafts, similar, _beside(drafts), strict=True):
        verdicts = {id: compare(known[id][1], draft.content).relation for id in found if id in known}
        here = {number: compare(drafts[number].content, draft.content).relation for number in beside}
        prepared.append(
            Prepared(
                draft,
                _key(parts, draft),
                {id: known[id][0] for id, claim in verdicts.items() if claim is Claim.SAME},
                {id: known[id][0] for id, claim in verdicts.items() if claim is Claim.RIVAL},
                tuple(number for number, claim in here.items() if claim is Claim.SAME),
                tuple(number for number, claim in here.items() if claim is Claim.RIVAL),
            )
        )
    return prepared


def uncompared(parts: Parts, drafts: Sequence[Draft]) -> list[Prepared]:
    """Only what is told by the words as they stand."""
    return [Prepared(draft, _key(parts, draft), {}, {}) for draft in drafts]


def _beside(drafts: Sequence[Draft]) -> Iterator[list[int]]:
    """For each draft the numbers of the claims before it that share most words with it: no index has these yet."""
    having: defaultdict[str, list[int]] = defaultdict(list)
    many = sum(is_claim(draft) for draft in drafts) > 1
    for number, draft in enumerate(drafts):
        if not many or not is_claim(draft):
            yield []
            continue
        words = dict.fromkeys(stems(draft.content))
        shared = Counter(earlier for word in words for earlier in having[word])
        yield [earlier for earlier, _ in shared.most_common(RIVALS_LOOKED_AT)]
        for word in words:
            having[word].append(number)


def alike(parts: Parts, cube: str, draft: Draft, seen: frozenset[Sensitivity]) -> tuple[str, ...]:
    """Ids of the memories that are most like the draft in words: what it repeats or contradicts shares them."""
    if not is_claim(draft):
        return ()
    found = parts.indexes.ready(cube)
    if found is None or not len(found[0]):
        return ()
    search = Recall(query=draft.content[:MAX_RIVAL_QUERY_CHARS], limit=RIVALS_LOOKED_AT, kinds=CLAIMS)
    ranking = rank(search, {cube: found[0].showing(seen)}, None, parts.clock.now())
    return tuple(candidate.id for candidate in ranking.candidates[:RIVALS_LOOKED_AT])
