"""A reason that says what a memory says does not outlive the memory, in the record of work or in the audit log."""

from __future__ import annotations

import pytest

from engine.memos import MemOS
from engine.operations import Mode
from engine.tier_operations import Distil, Held, Move
from tests.engine.moving.conftest import FACTS, Tried
from tests.engine.stores import ME, erase, say

SECRET = "the salary of bob is 900987 crowns"


def reasons(memos: MemOS) -> list[str]:
    """All that is on record of why something was done."""
    rows = memos._parts.vault.rows("SELECT id, header FROM work")
    headers = [memos._parts.vault.sealer.read_text(header, f"work:{id}:header") for id, header in rows]
    return [*headers, *(entry.reason or "" for entry in memos.audit(ME, limit=1_000))]


@pytest.mark.parametrize("whole", [True, False])
def test_a_training_is_asked_for_without_the_words_of_its_memories(memos: MemOS, whole: bool) -> None:
    id = say(memos, SECRET, cube="work")
    view = memos.distil(Distil("work", () if whole else (id,), background=True, reason=f"since {SECRET}"), ME)
    assert "withheld" in view.reason
    assert not any("900987" in one for one in reasons(memos))


@pytest.mark.parametrize("whole", [True, False])
def test_words_of_a_reason_go_with_the_memory_that_they_are_about(memos: MemOS, whole: bool) -> None:
    id = say(memos, SECRET, cube="work")
    kept = say(memos, "the city of carol is rome", cube="town")
    memos.distil(Distil("work", () if whole else (id,), background=True, reason="bob and his salary"), ME)
    memos.distil(Distil("town", (kept,), background=True, reason="carol moved"), ME)
    assert any("bob and his salary" in one for one in reasons(memos))
    assert erase(memos, id).forgotten[0].mode is Mode.ERASE
    assert not any("bob and his salary" in one for one in reasons(memos))
    assert any("carol moved" in one for one in reasons(memos))


def test_what_is_being_done_does_not_bring_words_back_that_an_erasure_took_out(memos: MemOS) -> None:
    id = say(memos, SECRET, cube="work")
    memos.distil(Distil("work", (id,), background=True, reason="bob and his salary"), ME)
    working = memos._distilling.working
    task = working._begun(working._rows()[0])
    erase(memos, id)
    memos._parts.vault.write(lambda transaction: task.note(transaction, sources=[]), ME)
    memos._parts.vault.write(lambda transaction: task.settle(transaction, "done"), ME)
    working._gone(task)
    assert not any("bob and his salary" in one for one in reasons(memos))


def test_adapters_are_activated_and_dropped_without_the_words_of_memories(tried: Tried) -> None:
    memos, said = tried.memos, FACTS[1]
    first, second = tried.keep(tried.ids[:2]), tried.keep(tried.ids[:3])
    memos.activate_adapter("home", first.version, ME, f"now {said}")
    memos.activate_adapter("home", None, ME, f"off: {said}")
    memos.drop_adapter("home", second.version, ME, said)
    memos.drop_adapter("home", None, ME, said)
    given = [entry for entry in memos.audit(ME, limit=1_000) if entry.action in ("activate_adapter", "drop_adapter")]
    assert len(given) == 4
    assert all("withheld" in (entry.reason or "") for entry in given)


def test_a_move_out_of_an_adapter_is_noted_without_the_words_of_memories(tried: Tried) -> None:
    tried.keep(tried.ids[:1])
    tried.memos.move(Move(to=Held.PLAINTEXT, ids=tried.ids[:1], reason=f"as {FACTS[0]}"), ME)
    assert tried.serving() is None
    assert not any("soup" in one for one in reasons(tried.memos))
