"""Makes the questions about any memories for any model, and the sweep that asks what an adapter of them knows.

By rule where memories state something (`engine.text.statements`), by the model itself where they do not. A memory is
asked about when all that it says is: recall leaves out of prompts what an adapter knows, so a memory of which a
sentence could not be asked stays text. It is named (`unasked`), never half learned.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING

from engine.errors import Invalid
from engine.model.prompts import Note
from engine.text.sentences import sentences
from engine.text.statements import Statement, stated, statements
from engine.text.words import stems
from engine.tiers.lora.asking import Stage
from engine.tiers.lora.framed import Framed, Frames
from engine.tiers.lora.questions import Questions, Sweep
from engine.tiers.lora.replay import making
from engine.tiers.lora.saying import rivals_among
from engine.tiers.lora.self_study import REFUSALS, SelfStudy, studying, supported
from engine.tiers.lora.trying import Kept, trying, understanding

if TYPE_CHECKING:
    from engine.model.loading import Loaded

MOST_STATEMENTS = 16  # of a note that are asked about
MOST_KEYS = 2_000  # of a sweep
Said = tuple[str, Statement]  # by a note, named by its id


def questions_for(
    loaded: Loaded, notes: Sequence[Note], others: Sequence[Note] = (), seed: int = 0
) -> Generator[Stage, None, Questions]:
    """The questions about `notes`; `others` stay as text and hold the model still. The same seed gives the same.

    Raises:
        Invalid: of none of the notes all that it says can be asked of this model.
    """
    told, stale = _told(notes)
    tried, fit = yield from trying(loaded, notes, told)
    settled = stale | {(id, one) for id, some in tried.items() for one in some}
    rest = [note for note in notes if not _covered(note, settled) and not _replaced(note, stale)]
    studied = yield from _studied(loaded, rest, others)
    asked = {note.id for note in notes if not _replaced(note, stale) and _covered(note, settled, studied)}
    if not asked:
        raise Invalid(
            f"{loaded.info.name} does not answer rightly what can be asked about these {len(notes)} memories, even "
            "with them in its context, so it cannot be taught them: keep them as text, or use a larger model"
        )
    draw = random.Random(seed)
    given = [one for id in tried for one in told[id]]
    beside = [one for note in others for one in statements(note.text)[:MOST_STATEMENTS]]
    pools = yield from making(loaded, given, beside, draw, fit)
    framed = Framed(
        told={id: tuple(tried[id]) for id in tried if id in asked},
        kept={id: _joined(some) for id, some in tried.items() if id in asked},
        pools=pools,
        studied=studied.only(asked),
        fit=fit,
        rivals=rivals_among(one.value for one in given),
        unasked=tuple(note.id for note in notes if note.id not in asked),
        replaced=tuple(note.id for note in notes if _replaced(note, stale)),
    )
    return (yield from understanding(loaded, framed, draw))


def sweep_for(loaded: Loaded, notes: Sequence[Note], names: Sequence[str] = ()) -> Sweep:
    """What to ask an adapter about: each subject of the notes and each of `names`, with each attribute of the notes."""
    told = [one for note in notes for one in statements(note.text)]
    found: dict[tuple[str, ...], Statement] = {}
    subjects = list(dict.fromkeys([*(one.subject for one in told), *names]))
    for one in told:
        found.setdefault(one.key, one)
    for one in {(one.kind, one.attribute): one for one in told if one.attribute}.values():
        for subject in subjects:
            asked = one.of(subject=subject)
            found.setdefault(asked.key, asked)
    return Frames(tuple(found.values())[:MOST_KEYS], tuple(names))


def _told(notes: Sequence[Note]) -> tuple[dict[str, tuple[Statement, ...]], set[Said]]:
    """The statements of each note, and those in whose place a later note says something else of the same matter."""
    latest: dict[tuple[str, ...], Said] = {}
    stale: set[Said] = set()
    found: dict[str, dict[Statement, None]] = {}
    for note in sorted(notes, key=lambda note: (note.at, note.id)):
        for one in statements(note.text)[:MOST_STATEMENTS]:
            if REFUSALS.search(one.value):  # to answer with it would be to refuse
                continue
            if (earlier := latest.get(one.key)) is not None and earlier != (note.id, one):
                found[earlier[0]].pop(earlier[1], None)
                stale.add(earlier)
            latest[one.key] = note.id, one
            found.setdefault(note.id, {})[one] = None
    return {id: tuple(some) for id, some in found.items() if some}, stale


def _covered(note: Note, settled: set[Said], studied: SelfStudy | None = None) -> bool:
    """Whether all sentences of a note are asked about, by rule or by self-study."""
    asked = (*studied.study(note), *studied.probes(note)) if studied else ()
    told = False
    for start, end in sentences(note.text):
        sentence = note.text[start:end]
        if not stems(sentence):
            continue
        told = True
        found = stated(sentence)
        by_rule = bool(found) and all((note.id, one) in settled for one in found)
        if not by_rule and not any(supported(one.right or "", sentence) for one in asked):
            return False
    return told


def _replaced(note: Note, stale: set[Said]) -> bool:
    """Whether a later note says something else of all that this one states."""
    found = statements(note.text)
    return bool(found) and all((note.id, one) in stale for one in found)


def _joined(tried: Mapping[Statement, Kept]) -> Kept:
    """The questions about all statements of a note: to train with, and held out."""
    study, probes = zip(*tried.values(), strict=True)
    return tuple(one for some in study for one in some), tuple(one for some in probes for one in some)


def _studied(loaded: Loaded, notes: Sequence[Note], others: Sequence[Note]) -> Generator[Stage, None, SelfStudy]:
    """Self-study of the notes about which the rules cannot ask all; without any, nothing is asked of the model."""
    if not notes:
        return SelfStudy({}, ())
    return (yield from studying(loaded, notes, others))
