"""Replies through the adapter of a cube: what it knows costs no tokens, who may not see all of it never hears it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cubes import Action
from engine.cube_operations import Govern
from engine.errors import Conflict
from engine.memos import MemOS
from engine.model.loading import Loaded
from engine.model_operations import Chat, ChatTurn, Finished, Form, MemoryUse, Recalling, Said, Sampling, Tier
from engine.operations import Caller, Forget, Mode, Principal, Remember
from engine.tier_operations import Judged
from engine.tiers.lora.files import Source, read_adapter
from engine.tiers.lora.store import Made
from engine.vault.adapters import AdapterRow
from tests.conftest import START, HandClock, until
from tests.engine.stores import ME, opened, settings_for
from tests.engine.tiers.lora.conftest import Trained

GREEDY = Sampling(max_tokens=6, temperature=0)
PASSED = Judged(1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.01)
PINNED = "the keeper of the garden comes on mondays and leaves the gate open until the evening bell rings"
WITHOUT = (Tier.TEXT, Tier.KV)


@dataclass
class Worn:
    """A store whose cube has the memories of an adapter, and the adapter."""

    memos: MemOS
    clock: HandClock
    trained: Trained
    loaded: Loaded
    ids: dict[str, str]  # of the trained notes, the ids here

    def tell(self, text: str, **more) -> str:
        self.clock.pass_by(minutes=1)
        return self.memos.remember(Remember(content=text, **more), ME).stored[0].id

    def keep(self, *, known: int = 99, **more) -> AdapterRow:
        """Let the adapter serve, proven to know the first `known` of its memories."""
        config, tensors, card = read_adapter(self.trained.folder, self.loaded.info.fingerprint)
        sources = tuple(Source(self.ids[one.id], 1, place < known) for place, one in enumerate(card.sources))
        told = {"cube": "default", "judged": PASSED, "caller": ME, **more}
        made = Made(config=config, tensors=tensors, card=replace(card, sources=sources), **told)
        row = self.memos._answering._local_model().adapters.keep(made)
        assert row is not None
        return row

    def question(self, place: int = 0) -> tuple[str, str, str]:
        """A question about a memory, the answer, and the memory's id."""
        note = self.trained.notes[place]
        return (
            self.trained.questions.study(note)[0].text,
            self.trained.questions.by_id[note.id].value,
            self.ids[note.id],
        )

    def ask(self, *texts: str, tiers=tuple(Tier), caller: Caller = ME, cubes=("default",)) -> Finished:
        *_, done = self.memos.chat(self.chat(*texts, tiers=tiers, cubes=cubes), caller)
        assert isinstance(done, Finished)
        return done

    def chat(self, *texts: str, tiers=tuple(Tier), cubes=("default",), sampling: Sampling = GREEDY) -> Chat:
        roles = ("user", "assistant")
        turns = tuple(ChatTurn(roles[number % 2], text) for number, text in enumerate(texts))
        return Chat(turns, MemoryUse(cubes=cubes, tiers=tiers), sampling)

    def right(self, **more) -> int:
        """How many questions about its memories are answered."""
        asked = [self.question(place) for place in range(len(self.trained.notes))]
        return sum(self.ask(question, **more).text.strip() == value for question, value, _ in asked)


@pytest.fixture
def worn(loaded: Loaded, first: Trained, tmp_path: Path, latest_wins: Path) -> Iterator[Worn]:
    clock = HandClock(START)
    settings = replace(settings_for(tmp_path / "data"), model=str(latest_wins), model_device="cpu")
    with opened(settings, clock) as memos:
        made = Worn(memos, clock, first, loaded, {})
        made.ids.update({note.id: made.tell(note.text) for note in first.notes})
        yield made


def test_what_the_adapter_knows_costs_no_tokens(worn: Worn):
    question, value, id = worn.question()
    before = worn.ask(question)
    assert before.text.strip() == value
    worn.keep()
    done = worn.ask(question)
    assert done.text.strip() == value
    (used,) = [used for used in done.report.used if used.id == id]
    assert used.form is Form.LORA
    assert done.report.saved_tokens == before.report.prompt_tokens - done.report.prompt_tokens > 0
    assert done.report.adapter == "default 1"
    assert "lora" in done.report.tier
    assert done.model.base == before.model.fingerprint != done.model.fingerprint
    assert worn.right() >= 7


def test_who_asks_for_tiers_without_lora_goes_without_the_adapter(worn: Worn):
    question, value, _ = worn.question()
    worn.keep()
    done = worn.ask(question, tiers=WITHOUT)
    assert done.text.strip() == value
    assert done.report.adapter == ""
    assert done.report.saved_tokens == 0
    assert Form.LORA not in {used.form for used in done.report.used}


def test_a_memory_that_the_adapter_is_not_proven_to_know_is_read(worn: Worn):
    question, value, id = worn.question(7)
    worn.keep(known=7)
    done = worn.ask(question)
    assert {used.form for used in done.report.used if used.id == id} == {Form.TEXT}
    assert done.report.adapter == "default 1"
    assert done.text.strip() == value


def test_what_the_adapter_knows_is_read_beside_what_speaks_of_the_same_thing(worn: Worn):
    question, _, id = worn.question()
    worn.keep()
    newer = worn.tell(f"somebody said that {worn.trained.notes[0].text} no more")
    forms = {used.id: used.form for used in worn.ask(question).report.used}
    assert (forms[id], forms[newer]) == (Form.TEXT, Form.TEXT)


def test_a_reply_under_way_ends_with_an_error_when_a_memory_of_its_adapter_is_erased(worn: Worn):
    question, value, _ = worn.question()
    worn.keep()
    worn.ask(question)
    runner = worn.memos._answering._local_model().host.runner(None)
    queued, erased = threading.Event(), threading.Event()

    def held(loaded: Loaded) -> Iterator[bool]:
        yield queued.wait(30)
        yield True  # the reply comes behind this one
        yield erased.wait(30)

    with runner.stream(held) as holding, ThreadPoolExecutor(1) as other:
        events = worn.memos.chat(worn.chat(question), ME)
        first = other.submit(next, events)
        until(lambda: len(runner._foreground) == 2, "the reply to wait for its turn")
        queued.set()
        assert isinstance(first.result(30), Recalling)  # the reply has its prompt, and has said nothing
        worn.memos.forget(Forget(ids=(worn.question(3)[2],), mode=Mode.ERASE, confirmed=True), ME)
        erased.set()
        said = []
        with pytest.raises(Conflict, match="taken out of service"):
            said += [event.text for event in events if isinstance(event, Said)]
        assert "".join(said) == ""
        assert list(holding) == [True, True, True]
    done = worn.ask(question)
    assert done.report.adapter == ""
    assert done.text.strip() == value  # from text
    assert worn.ask(worn.question(3)[0]).text.strip() == "unknown"


def test_an_adapter_serves_nobody_who_may_not_see_all_that_it_was_made_from(worn: Worn):
    note = worn.trained.notes[7]
    worn.memos.forget(Forget(ids=(worn.ids[note.id],), mode=Mode.ERASE, confirmed=True), ME)
    worn.ids[note.id] = worn.tell(note.text, cube="private")
    row = worn.keep()
    guest = Caller(Principal("guest", grants=(("default", (Action.READ,)),)))
    question, value, _ = worn.question()
    assert worn.ask(question).report.adapter == f"default {row.version}"
    done = worn.ask(question, caller=guest)
    assert done.report.adapter == ""
    assert done.text.strip() == value
    assert worn.ask(worn.question(7)[0], caller=guest).text.strip() == "unknown"


def test_an_adapter_serves_no_longer_than_the_first_of_its_memories_lives(worn: Worn):
    note = worn.trained.notes[7]
    worn.memos.forget(Forget(ids=(worn.ids[note.id],), mode=Mode.ERASE, confirmed=True), ME)
    worn.ids[note.id] = worn.tell(note.text, expires_in_days=1 / 24)
    worn.keep()
    assert worn.ask(worn.question()[0]).report.adapter == "default 1"
    worn.clock.pass_by(minutes=90)
    done = worn.ask(worn.question()[0])
    assert done.report.adapter == ""
    assert done.text.strip() == worn.question()[1]


def test_caches_of_the_base_are_never_used_under_an_adapter_nor_the_other_way_round(worn: Worn):
    pinned = worn.tell(
        "the keeper of the garden comes on mondays and leaves the gate open until the evening bell rings"
    )
    worn.memos.govern(Govern(ids=(pinned,), pinned=True), ME)
    question, value, _ = worn.question()

    def reused() -> int:
        done = worn.ask(question)
        worn.memos._answering.flush()
        assert done.text.strip() == value
        return done.report.reused_tokens

    assert reused() == 0
    assert (of_base := reused()) > 0
    worn.keep()
    assert reused() == 0
    assert reused() > 0
    worn.memos._answering._local_model().adapters.activate("default", None, ME)
    assert reused() == of_base


def test_caches_that_an_adapter_left_go_with_every_memory_that_it_was_made_from(worn: Worn):
    pinned = worn.tell(
        "the keeper of the garden comes on mondays and leaves the gate open until the evening bell rings"
    )
    worn.memos.govern(Govern(ids=(pinned,), pinned=True), ME)
    worn.keep()
    seen = worn.ask(worn.question()[0]).model.fingerprint
    worn.memos._answering.flush()
    vault = worn.memos._parts.vault
    rows = "SELECT count(*) FROM artifacts WHERE fingerprint = ?"
    assert vault.rows(rows, [seen])[0][0] > 0
    worn.memos.forget(Forget(ids=(worn.question(5)[2],)), ME)
    assert vault.rows(rows, [seen])[0][0] == 0


def test_the_tiers_show_adapters_and_how_often_replies_went_through_them(worn: Worn):
    row = worn.keep()
    worn.ask(worn.question()[0])
    worn.ask(worn.question(1)[0])
    worn.memos.sweep()
    (shown,) = [tier for tier in worn.memos.tiers("default", ME) if tier.kind == "lora"]
    assert (shown.id, shown.form, shown.memories, shown.usable) == (row.artifact, "version 1, serving", 8, True)
    assert shown.uses == 2
    assert all(tier.usable for tier in worn.memos.tiers("default", ME))  # what replies left under it, too


def test_the_weights_of_an_adapter_that_is_gone_leave_the_model_with_the_next_sweep(worn: Worn):
    worn.keep()
    worn.ask(worn.question()[0])
    local = worn.memos._answering._local_model()
    resident = local.adapters._resident()
    worn.memos.forget(Forget(ids=(worn.question(2)[2],), mode=Mode.ERASE, confirmed=True), ME)
    worn.memos.sweep()
    assert resident.adapters == ()


@pytest.mark.parametrize(("room", "there"), [(150_000, 1), (250_000, 2)])
def test_adapters_of_several_cubes_take_turns_within_the_budget(worn: Worn, room: int, there: int):
    mine = dict(worn.ids)
    worn.keep()
    worn.ids.update({note.id: worn.tell(note.text, cube="other") for note in worn.trained.notes})
    worn.keep(cube="other")
    worn.ids.update(mine)
    settings = replace(worn.memos._parts.vault.settings, lora_ram_bytes=room)
    worn.memos.close()
    with opened(settings, worn.clock) as memos:
        again = replace(worn, memos=memos)
        for cube in ("default", "other", "default"):
            done = again.ask(worn.question()[0], cubes=(cube,))
            assert done.report.adapter == f"{cube} 1"
            assert done.text.strip() == worn.question()[1]
        assert len(memos._answering._local_model().adapters._resident().adapters) == there


def test_an_adapter_larger_than_the_budget_is_said_and_text_answers(worn: Worn):
    worn.keep()
    settings = replace(worn.memos._parts.vault.settings, lora_ram_bytes=1_000)
    worn.memos.close()
    with opened(settings, worn.clock) as memos:
        done = replace(worn, memos=memos).ask(worn.question()[0])
        assert done.text.strip() == worn.question()[1]
        assert any("the budget is 1000" in remark for remark in done.report.remarks)


def test_without_the_tier_no_adapter_is_worn(worn: Worn, tmp_path: Path):
    worn.keep()
    settings = replace(worn.memos._parts.vault.settings, lora=False)
    worn.memos.close()
    with opened(settings, worn.clock) as memos:
        without = replace(worn, memos=memos)
        assert without.ask(worn.question()[0]).report.adapter == ""


def test_the_model_that_is_unloaded_takes_its_adapters_along(worn: Worn):
    worn.keep()
    question, value, _ = worn.question()
    local = worn.memos._answering._local_model()
    assert worn.ask(question).text.strip() == value
    resident = local.adapters._resident
    assert resident() is not None
    until(lambda: not local.host.runner(None).busy, "the model to be idle")
    local.host.unload()
    gc.collect()
    assert resident() is None
    assert worn.ask(question).report.adapter == "default 1"
