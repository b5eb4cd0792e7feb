"""Erasing through the tiers: out of service before the call returns, in no file, trained and built anew without it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.cube_operations import Govern
from engine.distilling.comparing import probe_adapter
from engine.distilling.probes import Ask
from engine.distilling.proving import HELD_FOR, MOST_TRIES, NOBODY, Proving, _counted
from engine.distilling.working import Kind, Task, Working
from engine.errors import NotFound
from engine.memos import MemOS
from engine.operations import AdapterGone, Caller, Forget, Mode, Principal, Receipt
from engine.settings import Settings
from engine.tier_operations import AdapterState, Distil, Probed, WorkState, WorkView
from engine.vault.blobs import read_blob
from engine.vault.work import RETRAIN, WorkRow, all_work
from tests.conftest import LONG_S, HandClock, until
from tests.engine.answering.test_chat import chat, kept, reply
from tests.engine.distilling.short import TOLD, distilled, files_of, ids_of, in_service, versions
from tests.engine.stores import ME, SEALED, erase, opened, run_python, say
from tests.engine.test_forget import traces
from tests.models import facts

GONE, SERVING = AdapterState.GONE, AdapterState.SERVING
LEARNED = 8  # memories of the adapter that is trained for real
NAMES, CITIES = facts.NAMES[:LEARNED], facts.VALUES["city"][:LEARNED]
SAMPLE_BYTES, SAMPLES = 48, 24  # of an adapter's weights, looked for in every file
TOKENS = (struct.Struct("<q"), struct.Struct("<i"), struct.Struct("<H"))  # as which token ids could be written


def receipt_of(memos: MemOS, *ids: str, caller: Caller = ME) -> Receipt:
    receipt = erase(memos, *ids, caller=caller).receipt
    assert receipt is not None
    return receipt


def blob_of(memos: MemOS, kind: str) -> bytes:
    vault = memos._parts.vault
    ((digest,),) = vault.rows("SELECT digest FROM artifacts WHERE kind = ?", [kind])
    return b"".join(read_blob(vault.settings, digest, vault.sealer))


def samples(weights: bytes) -> list[bytes]:
    """Pieces of the numbers of a safetensors file, which begin behind its header."""
    start = 8 + int.from_bytes(weights[:8], "little")
    step = max(SAMPLE_BYTES, (len(weights) - start - SAMPLE_BYTES) // SAMPLES)
    found = [weights[at : at + SAMPLE_BYTES] for at in range(start, len(weights) - SAMPLE_BYTES, step)]
    return [piece for piece in found if len(set(piece)) > SAMPLE_BYTES // 4]  # zeros are everywhere


def holding(folder: Path, pieces: list[bytes]) -> list[str]:
    """The files that hold one of these."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [str(path.relative_to(folder)) for path in files if any(piece in path.read_bytes() for piece in pieces)]


def token_ids(memos: MemOS, text: str) -> list[bytes]:
    """A text as the model reads it, in each width in which its ids could be written."""
    local = memos._answering.at_hand
    assert local is not None
    found: list[int] = local.host.runner().call(lambda loaded: loaded.tokenizer.encode(text, add_special_tokens=False))
    return [b"".join(form.pack(id) for id in found) for form in TOKENS]


def work_of(memos: MemOS, receipt: Receipt, what: str) -> WorkView:
    (view,) = [view for view in memos.after_erasing(receipt.id, ME) if view.what == what]
    return view


# --- out of service, and in no file ---------------------------------------------------------------------------------


def test_an_adapter_is_out_of_service_and_in_no_file_when_the_call_returns(trainable: MemOS) -> None:
    view = in_service(trainable, distilled(trainable))
    data, (first, *_) = trainable._parts.vault.settings.data, ids_of(trainable)
    weights = samples(blob_of(trainable, "lora"))
    assert weights
    assert SEALED or holding(data, weights)  # the search finds them where they are
    seen: list[object] = []

    def look(done: float, total: float | None, message: str) -> None:
        if message == "removing every copy":  # the transaction is durable, and the call goes on
            seen.append((versions(trainable), files_of(data / "blobs")))

    receipt = trainable.forget(Forget(ids=(first,), mode=Mode.ERASE, confirmed=True), ME, look).receipt
    assert receipt is not None
    assert seen == [([(view.version, GONE)], [])]
    assert receipt.lora == (AdapterGone("home", view.version, True),)
    assert holding(data, weights) == []
    assert traces(data, TOLD[0]) == []
    assert [row for row in trainable._parts.vault.rows("SELECT header FROM adapters") if "m_" in row[0]] == []
    assert work_of(trainable, receipt, RETRAIN).state in (WorkState.WAITING, WorkState.RUNNING)


def test_an_adapter_that_rested_goes_and_is_not_trained_anew(trainable: MemOS) -> None:
    view = distilled(trainable)
    receipt = receipt_of(trainable, ids_of(trainable)[0])
    assert receipt.lora == (AdapterGone("home", view.version, False),)
    assert trainable.after_erasing(receipt.id, ME) == ()


def test_an_adapter_of_other_memories_stays_in_service(trainable: MemOS) -> None:
    first, *others = ids_of(trainable)
    view = in_service(trainable, distilled(trainable, others))
    result = erase(trainable, first)
    assert result.invalidated.lora == 0
    assert versions(trainable) == [(view.version, SERVING)]


def test_an_adapter_that_was_written_out_is_told_as_out_of_reach(trainable: MemOS, tmp_path: Path) -> None:
    first, *others = ids_of(trainable)
    for name, ids in (("all", [first, *others]), ("others", others)):
        view = distilled(trainable, ids, steps=1)
        trainable.export_adapter("home", view.version, tmp_path / name, ME)
    assert receipt_of(trainable, first).out_of_reach == (str(tmp_path / "all"),)


def test_kv_of_what_was_erased_and_of_every_conversation_goes_and_its_words_and_tokens_with_it(
    settings: Settings, latest_wins: Path, clock: HandClock
) -> None:
    with opened(replace(settings, model=str(latest_wins), model_dtype="float32"), clock) as memos:
        ids = []
        for text in TOLD:
            clock.pass_by(minutes=1)
            ids.append(say(memos, text))
        memos.build_tier("default", ME)
        reply(memos, chat("what is the city of alice ?", "paris", "and the color of bob ?"))
        kept(memos)
        pieces = token_ids(memos, TOLD[0])
        receipt = receipt_of(memos, ids[0])
        assert dict(receipt.kv)["default"] == 1
        assert dict(receipt.kv)[""] > 0
        assert {row.memories for row in memos.tiers("default", ME)} == {1}
        assert len(memos.tiers("default", ME)) == 2  # those of the other two stayed
    assert holding(settings.data, pieces) == []
    assert traces(settings.data, TOLD[0]) == []


# --- built again without it -------------------------------------------------------------------------------------------


def test_a_pinned_block_is_built_again_without_what_was_erased_once_the_model_is_loaded(
    settings: Settings, latest_wins: Path, clock: HandClock
) -> None:
    with_model = replace(settings, model=str(latest_wins), model_dtype="float32")
    with opened(with_model, clock) as memos:
        ids = []
        for text in TOLD:
            clock.pass_by(minutes=1)
            ids.append(say(memos, text))
        memos.govern(Govern(tuple(ids), pinned=True), ME)
        memos.build_tier("default", ME)
    with opened(with_model, clock) as memos:
        receipt = receipt_of(memos, ids[0])
        waiting = work_of(memos, receipt, "rebuild")
        assert waiting.state is WorkState.WAITING
        assert any("for the model to be loaded by a chat" in line for line in memos.status(ME).work)
        assert memos._answering.at_hand is None  # nothing was loaded for it
        memos.model(ME, load=True)
        memos._distilling.working.wake()
        until(lambda: work_of(memos, receipt, "rebuild").ended_at is not None, "the block is built")
        done = work_of(memos, receipt, "rebuild")
        assert (done.state, done.told.endswith("were built anew")) == (WorkState.DONE, True)
        (block,) = [row for row in memos.tiers("default", ME) if row.form.startswith("prefix")]
        assert block.memories == 2
        answer = reply(memos, chat("what is the color of bob ?"))
        assert answer.text.strip() == "red"
        assert answer.report.reused_tokens > 0


def test_nothing_is_built_again_of_a_block_of_which_nothing_is_left(
    settings: Settings, latest_wins: Path, clock: HandClock
) -> None:
    with opened(replace(settings, model=str(latest_wins), model_dtype="float32"), clock) as memos:
        ids = [say(memos, text) for text in TOLD[:2]]
        memos.govern(Govern(tuple(ids), pinned=True), ME)
        memos.build_tier("default", ME)
        assert memos.after_erasing(receipt_of(memos, *ids).id, ME) == ()


# --- what a process that is killed leaves -----------------------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
from engine import erasing, forgetting
from engine.memos import MemOS
from engine.operations import Caller, Forget, Mode
from engine.settings import Settings
from engine.vault import vault as truth

def die(*args, **more):
    os.kill(os.getpid(), 9)

if sys.argv[4] == "in the transaction":
    erasing.note_pending = die  # the last that it does
if sys.argv[4] == "before its blobs go":
    truth.remove_blobs = die
if sys.argv[4] == "before its receipt":
    forgetting.receipts.finished = die

memos = MemOS.open(Settings(data=Path(sys.argv[1]), embedder="none", backup_every_h=0, model=sys.argv[3], lora=False))
memos.forget(Forget(ids=(sys.argv[2],), mode=Mode.ERASE, confirmed=True), Caller())
"""


@pytest.mark.skipif(SEALED, reason="the process that is killed has no key")
@pytest.mark.parametrize("where", ["in the transaction", "before its blobs go", "before its receipt"])
def test_a_process_that_is_killed_while_it_erases_leaves_all_or_nothing(
    trainable: MemOS, latest_wins: Path, where: str
) -> None:
    view = in_service(trainable, distilled(trainable))
    weights, settings = samples(blob_of(trainable, "lora")), trainable._parts.vault.settings
    first = ids_of(trainable)[0]
    trainable.close()
    with run_python(KILLED, str(settings.data), first, str(latest_wins), where) as process:
        assert process.wait(LONG_S) == -9
    with opened(replace(settings, lora=False)) as memos:
        if where == "in the transaction":
            assert memos.receipts(ME) == ()
            assert versions(memos) == [(view.version, SERVING)]
            assert memos.memory(first, ME).memory.content == TOLD[0]
            assert memos.status(ME).work == ()
            return
        (receipt,) = memos.receipts(ME)
        assert receipt.lora == (AdapterGone("home", view.version, True),)
        assert receipt.finished_at is not None
        assert receipt.signed is not None
        assert versions(memos) == [(view.version, GONE)]
        assert work_of(memos, receipt, RETRAIN).state is WorkState.WAITING
        assert any(RETRAIN in line and "MEMOS_LORA" in line for line in memos.status(ME).work)
        assert any("cut off" in line and receipt.id in line for line in memos.status(ME).work)
        with pytest.raises(NotFound):
            memos.memory(first, ME)
    assert holding(settings.data, weights) == []
    assert traces(settings.data, TOLD[0]) == []


# --- what is asked about what was erased ------------------------------------------------------------------------------


def trained_anew(memos: MemOS, instead: str) -> Task:
    """The work that trains an adapter anew, as it is handed to who does it."""
    header = {"instead": instead, "erased": 1, "ids": []}
    return Task(WorkRow("w_1", "home", RETRAIN, WorkState.RUNNING, header, 1, memos._parts.clock.now()))


@pytest.fixture
def proving(trainable: MemOS) -> Proving:
    in_service(trainable, distilled(trainable))
    return Proving(trainable._parts, trainable._answering, trainable._distilling.working)


DONE = Kind(lambda task: "version 2 serves", lambda: None)


def test_what_was_erased_is_asked_once_and_then_let_go_of(trainable: MemOS, proving: Proving) -> None:
    memory = trainable.memory(ids_of(trainable)[0], ME).memory
    proving.hold({"a_1": [memory]})
    asking = proving.asking_after(DONE)
    told = asking.run(trained_anew(trainable, "a_1"))
    assert told.startswith("version 2 serves; of ")
    assert told.endswith("otherwise than the model without it, which answers 0 rightly")
    assert memory.content not in told
    assert asking.run(trained_anew(trainable, "a_1")) == f"version 2 serves; {NOBODY}"


def test_what_the_gate_refuses_is_tried_again_with_other_seeds_and_not_for_ever(trainable: MemOS) -> None:
    assert distilled(trainable).state is AdapterState.FAILED  # so short a training never passes
    idle = Working(trainable._parts)  # nobody does what is asked of it
    asking = Proving(trainable._parts, trainable._answering, idle).asking_after(DONE)
    task, told = trained_anew(trainable, "a_1"), list[str]()
    for _ in range(MOST_TRIES):
        told.append(asking.run(task))
        with trainable._parts.vault.reading() as connection:
            task = Task(next(row for row in reversed(all_work(connection)) if row.what == RETRAIN))
    assert all(line == "version 2 serves; it is tried once more with another seed" for line in told[:-1])
    assert "the last of 3 tries" in told[-1]
    with trainable._parts.vault.reading() as connection:
        headers = [row.header for row in all_work(connection) if row.what == RETRAIN]
    assert [(header["seed"], header["tries"], header["instead"]) for header in headers] == [
        (1, 2, "a_1"),
        (2, 3, "a_1"),
    ]


def test_answers_otherwise_than_the_base_are_counted_and_said() -> None:
    answers = (("unknown", "snake"), ("unknown", "Unknown."), ("dog", "dog"), ("unknown", "cat"))
    found = [Probed("m_1", "the pet of carol is", one, other, False, other == "cat") for one, other in answers]
    told, otherwise = _counted(found)
    assert told.startswith("of 4 questions about what was erased it answers 1 rightly and 1 otherwise than the model")
    assert otherwise == 2  # the right answer is one that the base does not give either


def test_what_is_not_as_the_base_is_set_aside_and_serves_if_nothing_comes_nearer(
    trainable: MemOS, proving: Proving
) -> None:
    proving._working = Working(trainable._parts)  # nobody does what is asked of it
    proving.hold({"a_1": [trainable.memory(ids_of(trainable)[0], ME).memory]})
    row = proving._last(trained_anew(trainable, "a_1"))
    assert row is not None
    assert proving._again(trained_anew(trainable, "a_1"), row, 2) == "it is tried once more with another seed"
    assert [view.state for view in trainable.adapters("home", ME)] == [AdapterState.RESTING]
    with trainable._parts.vault.reading() as connection:
        again = next(work for work in all_work(connection) if work.what == RETRAIN)
    assert (again.header["nearest"], again.header["seed"], again.header["tries"]) == ([row.version, 2], 1, 2)
    assert proving._held.keys() == {"a_1"}
    last = Task(replace(again, header={**again.header, "tries": MOST_TRIES}))
    assert proving._again(last).endswith("version 1, which comes nearest, serves")  # the gate refused the last one
    assert [view.state for view in trainable.adapters("home", ME)] == [AdapterState.SERVING]
    assert proving._held == {}


def test_what_was_erased_is_held_for_an_hour_at_most(trainable: MemOS, proving: Proving, clock: HandClock) -> None:
    proving.hold({"a_1": [trainable.memory(ids_of(trainable)[0], ME).memory]})
    clock.pass_by(seconds=HELD_FOR.total_seconds())
    proving.sweep()
    assert proving._held == {}
    assert proving.asking_after(DONE).run(trained_anew(trainable, "a_1")).endswith(NOBODY)


def test_nothing_is_held_where_nothing_can_be_trained(settings: Settings) -> None:
    with opened(settings) as memos:
        id = say(memos, TOLD[0])
        memos._proving.hold({"a_1": [memos.memory(id, ME).memory]})
        assert memos._proving._held == {}


def test_who_may_not_see_a_receipt_hears_of_no_work(trainable: MemOS) -> None:
    receipt = receipt_of(trainable, ids_of(trainable)[0])
    with pytest.raises(NotFound):
        trainable.after_erasing(receipt.id, Caller(Principal("eve")))


# --- all of it, on the model ------------------------------------------------------------------------------------------


@pytest.fixture
def learned(settings: Settings, latest_wins: Path, clock: HandClock) -> Iterator[MemOS]:
    torch.set_num_threads(1)
    with opened(replace(settings, model=str(latest_wins), model_dtype="float32"), clock) as memos:
        for name, value in zip(NAMES, CITIES, strict=True):
            clock.pass_by(minutes=1)
            say(memos, f"the city of {name} is {value} .", cube="home")
        view = memos.distil(Distil("home", tuple(ids_of(memos))), ME)
        assert (view.state, len(view.known)) == (SERVING, LEARNED)
        yield memos


def test_after_training_anew_what_was_erased_is_answered_as_by_the_base_and_the_others_are_known(
    learned: MemOS,
) -> None:
    gone = ids_of(learned)[:2]
    receipt = receipt_of(learned, *gone)

    def asked() -> list[WorkView]:  # where the gate refuses it, it is tried again
        found = [view for view in learned.after_erasing(receipt.id, ME) if view.what == RETRAIN]
        assert "the last of" not in found[-1].told
        return [view for view in found if "questions about what was erased" in view.told]

    (view,) = until(asked, "it is trained and asked", 20 * LONG_S)
    assert view.state is WorkState.DONE
    assert "it knows 6 of 6 memories" in view.told
    assert "it answers 0 rightly and" in view.told
    assert "which answers 0 rightly" in view.told
    (serving,) = [one for one in learned.adapters("home", ME) if one.state is SERVING]
    assert {id for id, _ in serving.known} == set(ids_of(learned))
    found = learned.probe_adapter("home", 0, (), ME)
    assert sum(one.right_after for one in found) >= 0.95 * len(found)
    asked = [
        Ask(id, f"what is the city of {name} ?", value) for id, name, value in zip(gone, NAMES, CITIES, strict=False)
    ]
    outside = probe_adapter(learned._parts, learned._answering, "home", 0, (), ME, given=asked)
    assert [(one.right_before, one.right_after) for one in outside] == [(False, False)] * 2
