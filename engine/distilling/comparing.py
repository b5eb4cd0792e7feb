"""Looks at what versions of adapters know: probes against the base or against one another, and the gate once more.

Closed book: the memories that are asked about stand in no prompt. Answers are kept nowhere; of a verdict of the gate
ids and shares are kept. Questions about memories that are to be erased are made before, and asked afterwards. It
imports no torch: what asks a model is loaded with the first question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cubes import Action
from engine.answering.answering import Answering
from engine.distilling.opening import notes_of, only, opened, version_of
from engine.errors import Invalid
from engine.operations import Caller, Progress, silent
from engine.parts import Parts, check_ids, existing
from engine.tier_operations import Probed
from engine.tiers.lora.headers import source_pairs
from engine.vault import Transaction
from engine.vault.adapters import AdapterRow

if TYPE_CHECKING:
    from engine.distilling.probes import Ask

BASE = 0  # in a comparison: the model without an adapter


def compare_adapters(
    parts: Parts, answering: Answering, cube: str, a: int, b: int, caller: Caller, progress: Progress = silent
) -> tuple[Probed, ...]:
    """Ask two versions of a cube's adapter the probes of all memories that either was made from; 0 is the base model.

    Raises:
        Invalid: both are the same, or nothing can be asked about the memories.
        NotFound: there is no such version for this caller.
        Conflict: one cannot be used by the model that is loaded. Unavailable: there is no local model.
    """
    if a == b:
        raise Invalid(f"{a} and {b} are the same version: name two, or 0 for the model without an adapter")
    model = opened(answering, caller)
    first, second = (
        None if version == BASE else version_of(parts, model.adapters, cube, version, caller) for version in (a, b)
    )
    pairs = [pair for row in (first, second) if row is not None for pair in source_pairs(row)]
    notes = notes_of(parts, pairs)
    from engine.distilling.probes import probed

    return model.do(lambda loaded: probed(loaded, model.adapters, (first, second), notes), progress)


def probe_adapter(
    parts: Parts,
    answering: Answering,
    cube: str,
    version: int,
    ids: Sequence[str],
    caller: Caller,
    progress: Progress = silent,
    *,
    given: Sequence[Ask] = (),
) -> tuple[Probed, ...]:
    """Ask the base and a version (0: the one that serves) closed book, about the memories that it is from.

    `ids` are those to ask about; without any, and with nothing `given`, all are. `given` are questions about memories
    that may be gone.

    Raises:
        Invalid: nothing can be asked about the memories.
        NotFound: there is no such version for this caller, or it was not made from one of `ids`.
        Conflict: it cannot be used by the model that is loaded. Unavailable: there is no local model.
    """
    wanted = check_ids(ids)
    model = opened(answering, caller)
    row = version_of(parts, model.adapters, cube, version, caller)
    notes = only(notes_of(parts, source_pairs(row)), wanted) if wanted or not given else ()
    from engine.distilling.probes import probed

    return model.do(lambda loaded: probed(loaded, model.adapters, (None, row), notes, given), progress)


def questions_about(
    parts: Parts, answering: Answering, ids: Sequence[str], caller: Caller, progress: Progress = silent
) -> tuple[Ask, ...]:
    """The probes of memories, to be asked when these are gone. They say what the memories say: write them nowhere.

    Raises:
        Invalid: nothing can be asked about any of them.
        NotFound: one is not there for this caller. Unavailable: there is no local model.
    """
    wanted = check_ids(ids)
    with parts.vault.reading() as connection:
        transaction = Transaction(connection, parts.vault.head, parts.clock.now(), caller)
        found = existing(transaction, wanted, Action.READ)
    notes = notes_of(parts, [(record.memory.id, record.memory.version) for record in found])
    model = opened(answering, caller)
    from engine.distilling.probes import asks

    return model.do(lambda loaded: asks(loaded, model.adapters, notes), progress)


def judge_adapter(
    parts: Parts, answering: Answering, row: AdapterRow, caller: Caller, progress: Progress = silent
) -> AdapterRow:
    """Put a version through the gate, such as one that came with a bundle, and note what that finds.

    Raises:
        NotFound: it is gone, or not there for this caller.
        Invalid: nothing can be asked about its memories, so that nobody can say whether it knows them.
        Conflict: it cannot be used by the model that is loaded. Unavailable: there is no local model.
    """
    model = opened(answering, caller)
    version_of(parts, model.adapters, row.cube, row.version, caller)
    notes = notes_of(parts, source_pairs(row))
    from engine.distilling.probes import judged

    verdict = model.do(lambda loaded: judged(loaded, model.adapters, row, notes), progress)
    known = [one.id for one in verdict.memories if one.known]
    return model.adapters.judge(row, verdict.judged, known, caller)
