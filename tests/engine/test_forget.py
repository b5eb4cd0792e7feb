"""forget: archiving can be undone, erasing leaves nothing, and neither happens without being meant."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import Cancelled, Conflict, Expired, Frozen, Invalid
from engine.memos import MemOS
from engine.operations import Action, Caller, Forget, Fuse, Mode, Principal, Recall, Remember
from engine.settings import Settings
from tests.conftest import LONG_S, HandClock, until
from tests.engine.stores import (
    ME,
    archive,
    ask,
    erase,
    ids,
    opened,
    run_python,
    say,
    state,
    told,
    with_vectors,
)

SECRET = "Quillfeather hid the zylophorous lantern under the Vantablossom bridge."
RARE = ("quillfeather", "zylophor", "vantablossom")


def traces(folder: Path, *texts: str) -> list[str]:
    """Where one of the texts stands in a file of the folder, under any of the usual encodings."""
    wanted: dict[str, bytes] = {}
    for text in texts:
        for name in ("utf-8", "utf-16-le", "utf-16-be"):
            wanted[f"{text} in {name}"] = text.encode(name)
        for shift in range(
            3
        ):  # base64 of the text at each alignment, without the characters that its surroundings change
            coded = base64.b64encode(b"\0" * shift + text.encode())
            wanted[f"{text} in base64 ({shift})"] = coded[4 if shift else 0 : -4]
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        lowered = content.lower()
        for name, raw in wanted.items():
            if raw in content or ("base64" not in name and raw.lower() in lowered):
                found.append(f"{path.relative_to(folder)}: {name}")
    return found


def assert_gone(settings: Settings) -> None:
    assert traces(settings.data, SECRET, *RARE) == []


# --- archive --------------------------------------------------------------------------------------------------------


def test_an_archived_memory_is_left_out_and_comes_back_when_restored(dense: MemOS) -> None:
    id = say(dense, "The tide table hangs in the hall.")
    result = archive(dense, id, "m_nowhere", reason="outdated")
    assert [(item.id, item.mode) for item in result.forgotten] == [(id, Mode.ARCHIVE)]
    assert (result.not_found, result.receipt) == (("m_nowhere",), None)
    assert ids(ask(dense, "where is the tide table?")) == []
    assert ids(ask(dense, "where is the tide table?", include_archived=True)) == [id]
    assert (dense.history(id, ME)[-1].change, dense.history(id, ME)[-1].reason) == ("archive", "outdated")
    dense.restore(id, 1, ME)
    assert state(dense, id) == "generated"
    assert ids(ask(dense, "where is the tide table?")) == [id]


def test_archiving_twice_changes_nothing_the_second_time(memos: MemOS) -> None:
    id = say(memos, "Twice.")
    archive(memos, id)
    archive(memos, id)
    assert [version.change for version in memos.history(id, ME)] == ["remember", "archive"]


def test_a_long_text_is_archived_and_restored_with_its_pieces(memos: MemOS) -> None:
    whole, *pieces = [stored.id for stored in told(memos, "Every lamp has a keeper of its own. " * 80).stored]
    archive(memos, whole)
    assert {state(memos, piece) for piece in pieces} == {"archived"}
    memos.restore(whole, 1, ME)
    assert "archived" not in {state(memos, piece) for piece in pieces}


@pytest.mark.parametrize("mode", Mode)
def test_a_frozen_memory_is_not_forgotten_and_nothing_named_beside_it_is(memos: MemOS, mode: Mode) -> None:
    say(memos, "Held against change.")
    (record,) = memos.export_memories(ME)
    frozen = {**record, "id": "m_FROZEN", "content": "Held for good.", "frozen": True}
    assert memos.import_memories([frozen], ME).added == 1
    with pytest.raises(Frozen, match="m_FROZEN"):
        memos.forget(Forget(ids=(record["id"], "m_FROZEN"), mode=mode, confirmed=True), ME)
    assert state(memos, record["id"]) == "generated"


@pytest.mark.parametrize(
    "request_",
    [
        Forget(),
        Forget(ids=("m_1",), query="x"),
        Forget(ids=("m_1",), confirm="c_1"),
        Forget(query="  "),
        Forget(ids=("",)),
        Forget(ids=("m_\ud800",)),
        Forget(ids=("m_1",) * 1_001),
        Forget(ids=("m_1",), reason="x" * 3_000),
        Forget(ids=("m_1",), reason="lone \ud800"),
        Forget(query="lone \ud800"),
    ],
)
def test_a_request_that_is_no_request_is_refused(memos: MemOS, request_: Forget) -> None:
    say(memos, "Untouched.")
    with pytest.raises(Invalid):
        memos.forget(request_, ME)


# --- preview and confirm --------------------------------------------------------------------------------------------


def test_forgetting_by_query_shows_first_and_acts_on_the_token_once(dense: MemOS) -> None:
    hit = say(dense, "The boiler was serviced in January.")
    say(dense, "Anna's birthday cake had blue icing.")
    preview = dense.forget(Forget(query="boiler service"), ME)
    assert hit in [item.id for item in preview.preview]
    assert preview.forgotten == ()
    assert state(dense, hit) == "generated"
    result = dense.forget(Forget(confirm=preview.confirm), ME)
    assert {item.id for item in result.forgotten} == {item.id for item in preview.preview}
    assert state(dense, hit) == "archived"
    with pytest.raises(Expired, match="ask again without confirm"):
        dense.forget(Forget(confirm=preview.confirm), ME)


def test_erasing_by_id_needs_a_confirmation(memos: MemOS) -> None:
    id = say(memos, "Only with care.")
    preview = memos.forget(Forget(ids=(id, "m_nowhere"), mode=Mode.ERASE), ME)
    assert [(item.id, item.content) for item in preview.preview] == [(id, "Only with care.")]
    assert (preview.forgotten, preview.not_found) == ((), ("m_nowhere",))
    assert state(memos, id) == "generated"
    result = memos.forget(Forget(confirm=preview.confirm), ME)
    assert [(item.id, item.mode) for item in result.forgotten] == [(id, Mode.ERASE)]
    assert list(memos.export_memories(ME)) == []


def test_a_token_expires_after_ten_minutes(memos: MemOS, clock: HandClock) -> None:
    id = say(memos, "Slow to decide.")
    early = memos.forget(Forget(ids=(id,), mode=Mode.ERASE), ME).confirm
    clock.pass_by(minutes=10)
    late = memos.forget(Forget(ids=(id,), mode=Mode.ERASE), ME).confirm
    clock.pass_by(seconds=1)
    with pytest.raises(Expired):
        memos.forget(Forget(confirm=early), ME)
    assert state(memos, id) == "generated"
    memos.forget(Forget(confirm=late), ME)


def test_a_memory_that_changed_since_the_preview_is_not_touched(memos: MemOS) -> None:
    id, other = say(memos, "Changing its mind."), say(memos, "Keeping its mind.")
    token = memos.forget(Forget(ids=(id, other), mode=Mode.ERASE), ME).confirm
    archive(memos, id)
    with pytest.raises(Conflict, match=id):
        memos.forget(Forget(confirm=token), ME)
    assert state(memos, other) == "generated"


def test_a_token_is_for_whoever_got_it(memos: MemOS) -> None:
    id = say(memos, "Mine.")
    guest = Caller(Principal("guest", grants=(("default", (Action.WRITE,)),)))
    token = memos.forget(Forget(ids=(id,), mode=Mode.ERASE), ME).confirm
    with pytest.raises(Expired):
        memos.forget(Forget(confirm=token), guest)
    assert state(memos, id) == "generated"
    memos.forget(Forget(confirm=token), ME)


def test_nothing_to_forget_is_no_preview(memos: MemOS) -> None:
    say(memos, "Something about boats.")
    result = memos.forget(Forget(query="zebra xylophone"), ME)
    assert (result.preview, result.confirm, result.forgotten) == ((), None, ())


# --- erase ----------------------------------------------------------------------------------------------------------


def test_erasing_leaves_no_word_in_any_file_of_the_data_folder(settings: Settings, clock: HandClock) -> None:
    settings = replace(with_vectors(settings), backup_every_h=24.0)
    with opened(settings, clock) as memos:
        say(memos, "Something else stays.")
        id = say(memos, SECRET, tags=("lamp",))
    assert traces(settings.data, SECRET)  # the search finds it where it is
    assert len(list(settings.backups_folder.iterdir())) == 1
    with opened(settings, clock) as memos:
        ask(memos, SECRET)
        clock.pass_by(hours=1)
        archive(memos, id)
        memos.restore(id, 1, ME)
        result = erase(memos, id)
        assert_gone(settings)  # before anything is closed
        receipt = result.receipt
        assert receipt is not None
        assert dict(receipt.removed)["memories"] == 1
        assert receipt.erased == (id,)
        assert receipt.digests == (f"hmac-sha256:{memos._parts.vault.keyed(SECRET).hex()}",)
        assert SECRET not in repr(result)
        assert memos.verify(ME) == ()
        assert len(list(settings.backups_folder.iterdir())) == 1
        assert ids(ask(memos, SECRET, include_archived=True, as_of=clock.now())) != [id]
    assert_gone(settings)
    with opened(settings, clock) as memos:
        assert memos.verify(ME) == ()
        assert [record["content"] for record in memos.export_memories(ME)] == ["Something else stays."]
    assert_gone(settings)


def test_erasing_a_long_text_takes_its_pieces(settings: Settings) -> None:
    with opened(settings) as memos:
        text = " ".join(f"Paragraph {n} is about sail number {n}. {SECRET if n == 30 else ''}" for n in range(60))
        whole, *pieces = [stored.id for stored in told(memos, text).stored]
        assert pieces
        result = erase(memos, whole)
        assert {item.id for item in result.forgotten} == {whole, *pieces}
    assert_gone(settings)


def test_erasing_a_piece_blanks_its_words_in_the_whole_and_what_was_read_out_of_them(settings: Settings) -> None:
    with opened(settings) as memos:
        text = " ".join(f"Paragraph {n} is about sail number {n}. {SECRET if n == 30 else ''}" for n in range(60))
        whole, *pieces = [stored.id for stored in told(memos, text).stored]
        (piece,) = [id for id in pieces if SECRET in memos.memory(id, ME).memory.content]
        erase(memos, piece)
        content = memos.memory(whole, ME).memory.content
        assert "[erased]" in content
        assert "Paragraph 59 is about" in content
        assert "Paragraph 1 is about" in content
        assert memos.verify(ME) == ()
    assert_gone(settings)


def test_erasing_a_parent_erases_what_was_fused_from_it_and_frees_the_others(settings: Settings) -> None:
    with opened(settings) as memos:
        first = say(memos, SECRET)
        second = say(memos, "The bridge keeper wears a green coat.")
        caller = Caller(operation="fuse-1")
        fused = memos.fuse(Fuse(ids=(first, second)), caller)  # its recorded answer holds the content
        assert fused.id is not None
        result = erase(memos, first)
        assert {item.id for item in result.forgotten} == {first, fused.id}
        assert state(memos, second) == "activated"
    assert_gone(settings)


def test_erasing_brings_back_no_parent_that_was_put_away_by_hand(memos: MemOS) -> None:
    first, second = say(memos, "The lamp is green."), say(memos, "The coat is blue.")
    fused = memos.fuse(Fuse(ids=(first, second)), ME)
    memos.restore(first, 1, ME)
    archive(memos, second)
    result = erase(memos, first)
    assert {item.id for item in result.forgotten} == {first, fused.id}
    assert state(memos, second) == "archived"


def test_pieces_are_blanked_in_their_whole_by_place_however_alike_they_are(settings: Settings) -> None:
    # Every piece holds the same sentence: finding pieces by their words would blank too much, and then too little.
    text = " ".join(f"Call me back. Secretword{number} is what the caller said." for number in range(120))
    with opened(settings) as memos:
        stored = memos.remember(Remember(content=text), ME).stored
        whole, pieces = stored[0].id, [item.id for item in stored[1:]]
        said = {id: memos.memory(id, ME).memory.content for id in pieces}
        for id in (pieces[0], pieces[2]):
            erase(memos, id)
        left = memos.memory(whole, ME).memory.content
        assert left == f"[erased]{said[pieces[1]]}[erased]" + "".join(said[id] for id in pieces[3:])


def test_nothing_is_erased_that_the_preview_did_not_show(memos: MemOS) -> None:
    first, second = say(memos, "Nadia plays the cello."), say(memos, "Nadia lives in Turku.")
    fused = str(memos.fuse(Fuse(ids=(first, second)), ME).id)
    shown = memos.forget(Forget(ids=(fused,), mode=Mode.ERASE), ME)
    assert {item.id for item in shown.preview} == {fused, first, second}
    done = memos.forget(Forget(confirm=shown.confirm, mode=Mode.ERASE), ME)
    assert {item.id for item in done.forgotten} == {fused, first, second}


def test_naming_a_parent_beside_what_was_fused_from_it_frees_the_other_parent(memos: MemOS) -> None:
    first, second = say(memos, "Olavi keeps bees."), say(memos, "Olavi drives a tram.")
    fused = str(memos.fuse(Fuse(ids=(first, second)), ME).id)
    done = memos.forget(Forget(ids=(first, fused), mode=Mode.ERASE, confirmed=True), ME)
    assert {item.id for item in done.forgotten} == {fused, first}
    assert state(memos, second) == "activated"


def test_erasing_a_fused_memory_takes_its_parents(settings: Settings) -> None:
    with opened(settings) as memos:
        first, second = say(memos, SECRET), say(memos, "The bridge keeper wears a green coat.")
        fused = memos.fuse(Fuse(ids=(first, second)), ME)
        assert {item.id for item in erase(memos, str(fused.id)).forgotten} == {first, second, fused.id}
    assert_gone(settings)


def test_a_reason_that_repeats_the_content_is_withheld(settings: Settings) -> None:
    with opened(settings) as memos:
        id = say(memos, SECRET)
        archive(memos, id, reason=f"wrong: {SECRET}")
        memos.restore(id, 1, ME, reason="hid the zylophorous lantern under the Vantablossom bridge")
        erase(memos, id, reason="Quillfeather hid the zylophorous lantern")
        rows = memos._parts.vault.rows("SELECT reason FROM audit WHERE reason IS NOT NULL")
        assert len(rows) == 3
        assert all("withheld" in row[0] for row in rows)
    assert_gone(settings)


def test_an_erased_memory_does_not_come_back_by_importing_it(settings: Settings) -> None:
    with opened(settings) as memos:
        id = say(memos, SECRET)
        records = list(memos.export_memories(ME))
        erase(memos, id)
        report = memos.import_memories(records, ME)
        assert (report.added, report.duplicates) == (0, 1)
    assert_gone(settings)


def test_leftovers_of_a_copy_that_was_cut_short_do_not_survive_an_erasure(settings: Settings) -> None:
    with opened(settings) as memos:
        id = say(memos, SECRET)
    (settings.data / ".vault.fresh.partial").write_bytes(settings.database.read_bytes())
    with opened(settings) as memos:
        erase(memos, id)
    assert_gone(settings)


def test_copies_that_an_erasure_cannot_reach_are_named(memos: MemOS, tmp_path: Path) -> None:
    id = say(memos, SECRET)
    (tmp_path / "usb").mkdir()
    copy = memos.backup(tmp_path / "usb" / "copy.duckdb", ME)
    receipt = erase(memos, id).receipt
    assert receipt is not None
    assert receipt.out_of_reach == (str(copy),)


def test_erasing_what_is_not_there_is_said_and_leaves_no_receipt(memos: MemOS) -> None:
    result = erase(memos, "m_nowhere")
    assert (result.forgotten, result.not_found, result.receipt) == ((), ("m_nowhere",), None)


def test_an_erasure_that_was_sent_again_is_answered_from_its_record(memos: MemOS) -> None:
    id = say(memos, SECRET)
    caller = Caller(operation="erase-1")
    first = erase(memos, id, caller=caller)
    again = erase(memos, id, caller=caller)
    assert again == first
    assert memos.verify(ME) == ()


def test_stopping_after_the_commit_does_not_stop_an_erasure(settings: Settings) -> None:
    def stop(done: float, total: float | None, message: str) -> None:
        if done:
            raise Cancelled("stopped")

    with opened(settings) as memos:
        id = say(memos, SECRET)
        result = memos.forget(Forget(ids=(id,), mode=Mode.ERASE, confirmed=True), ME, stop)
        assert result.receipt is not None
        assert_gone(settings)


KILLED = """
import os, sys
from pathlib import Path
from engine.memos import MemOS
from engine.operations import Caller, Forget, Mode
from engine.settings import Settings

def progress(done, total, message):
    if message == "removing every copy":
        os.kill(os.getpid(), 9)

memos = MemOS.open(Settings(data=Path(sys.argv[1]), embedder="none", backup_every_h=0))
memos.forget(Forget(ids=(sys.argv[2],), mode=Mode.ERASE, confirmed=True), Caller(), progress)
"""


def test_an_erasure_whose_process_was_killed_is_finished_at_the_next_start(settings: Settings) -> None:
    with opened(replace(settings, backup_every_h=24.0)) as memos:
        other = say(memos, "Something else stays.")
        id = say(memos, SECRET)
    with run_python(KILLED, str(settings.data), id) as process:
        assert process.wait(LONG_S) == -9
    assert traces(settings.data, SECRET)
    with opened(settings) as memos:
        assert_gone(settings)
        assert [record["id"] for record in memos.export_memories(ME)] == [other]
        assert memos.verify(ME) == ()
    assert_gone(settings)


class Counted:
    """Counts the compactions of a vault, and holds the first one until it is told to go on."""

    def __init__(self, memos: MemOS) -> None:
        self._compact = memos._parts.vault.compact
        self.calls = 0
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.calls += 1
        self.begun.set()
        assert self.go_on.wait(LONG_S)
        self._compact()


@pytest.fixture
def counted(memos: MemOS, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    counter = Counted(memos)
    monkeypatch.setattr(memos._parts.vault, "compact", counter)
    yield counter
    counter.go_on.set()


def test_erasures_that_wait_together_share_a_compaction(memos: MemOS, settings: Settings, counted: Counted) -> None:
    parcels = [say(memos, f"{SECRET} Parcel {n}.") for n in range(5)]
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(erase, memos, parcels[0])
        assert counted.begun.wait(LONG_S)
        others = [pool.submit(erase, memos, id) for id in parcels[1:]]
        until(lambda: memos._forgetting._wanted == 5, "all of them to wait for a clean-up")
        counted.go_on.set()
        assert all(future.result().receipt for future in (first, *others))
    assert counted.calls == 2
    assert_gone(settings)
    assert memos.verify(ME) == ()


def test_recall_goes_on_while_something_is_erased(memos: MemOS, counted: Counted) -> None:
    kept, gone = say(memos, "The ferry leaves at nine."), say(memos, SECRET)
    with ThreadPoolExecutor(1) as pool:
        erasing = pool.submit(erase, memos, gone)
        assert counted.begun.wait(LONG_S)
        assert ids(memos.recall(Recall(query="when does the ferry leave?"), ME)) == [kept]
        memos.remember(Remember(content="Written meanwhile."), ME)
        counted.go_on.set()
        erasing.result()
    assert len(list(memos.export_memories(ME))) == 2
