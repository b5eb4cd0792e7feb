"""Receipts of erasures: signed, verified anywhere, fetched again, and never more than what is true."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cubes.signing import KEY_PREFIX
from engine import keys, receipts
from engine.cube_operations import Pack, Publish
from engine.errors import Invalid, NotAllowed, NotFound, TooLarge
from engine.memos import MemOS
from engine.operations import Action, AdapterGone, Caller, Forget, Mode, Principal, Receipt
from engine.settings import Settings
from tests.conftest import LONG_S, HandClock
from tests.engine.stores import ME, encrypted, erase, opened, run_python, say, settings_for

SECRET = "Quillfeather hid the zylophorous lantern under the Vantablossom bridge."
GUEST = Caller(Principal("guest", grants=(("default", (Action.READ, Action.WRITE)),)))


def erased(memos: MemOS, *wanted: str, caller: Caller = ME) -> Receipt:
    receipt = erase(memos, *wanted, caller=caller).receipt
    assert receipt is not None
    return receipt


def raw(receipt: Receipt) -> bytes:
    return json.dumps(receipts.plain(receipt), indent=2).encode()


def test_a_receipt_is_signed_by_a_key_that_is_made_for_receipts_alone(memos: MemOS, settings: Settings) -> None:
    receipt = erased(memos, say(memos, SECRET))
    assert receipt.signed is not None
    assert receipt.finished_at is not None
    found = memos.verify_receipt(raw(receipt))
    assert (found.receipt, found.known_as, found.noted) == (receipt, keys.OWN_NAME, True)
    assert found.key.startswith(KEY_PREFIX)
    assert (settings.keys_folder / keys.RECEIPTS).stat().st_mode & 0o777 == 0o600
    assert keys.own_keys(settings).signing is None  # bundles stay without a signature


def test_a_store_with_a_signing_key_signs_receipts_with_it_and_still_knows_the_earlier_ones(
    memos: MemOS, settings: Settings
) -> None:
    before = erased(memos, say(memos, "First."))
    signing = keys.create_keys(settings).signing
    after = erased(memos, say(memos, "Second."))
    found = [memos.verify_receipt(raw(receipt)) for receipt in (before, after)]
    assert found[1].key == str(signing) != found[0].key
    assert [one.known_as for one in found] == [keys.OWN_NAME, keys.OWN_NAME]


def test_a_receipt_holds_nothing_of_what_was_erased(memos: MemOS) -> None:
    receipt = erased(memos, say(memos, SECRET))
    assert not any(word in raw(receipt).decode().lower() for word in ("quillfeather", "zylophor", "vantablossom"))
    assert "Quillfeather" not in "".join(map(str, memos.audit(ME)))


@pytest.mark.parametrize("field", ["id", "at", "erased", "digests", "removed", "out_of_reach", "withheld", "store"])
def test_a_receipt_that_was_changed_is_found_out(memos: MemOS, field: str) -> None:
    document = receipts.plain(erased(memos, say(memos, SECRET)))
    changed = {"at": "2020-01-01T00:00:00Z", "removed": {"memories": 9}, "withheld": 3, "id": "r_other", "store": "x"}
    document[field] = changed[field] if field in changed else [*document[field], "m_other"]
    with pytest.raises(NotAllowed, match="was changed after it was signed"):
        memos.verify_receipt(json.dumps(document).encode())


@pytest.mark.parametrize(
    "given", [b"", b"{}", b"[]", b'{"receipt": null}', b'{"format": "memos-erasure-receipt/1"}', b"\xff", b'"text"']
)
def test_what_is_no_receipt_is_refused(memos: MemOS, given: bytes) -> None:
    with pytest.raises(Invalid):
        memos.verify_receipt(given)


def test_a_receipt_without_a_signature_or_of_any_size_is_refused(memos: MemOS) -> None:
    receipt = erased(memos, say(memos, SECRET))
    with pytest.raises(Invalid, match="is not signed"):
        memos.verify_receipt(raw(replace(receipt, signed=None)))
    with pytest.raises(TooLarge):
        memos.verify_receipt(raw(receipt) + b" " * receipts.MAX_RECEIPT_BYTES)


def test_the_answer_of_forget_can_be_verified_as_it_is(memos: MemOS) -> None:
    receipt = erased(memos, say(memos, SECRET))
    answer = {"forgotten": [], "confirm": None, "receipt": receipts.plain(receipt)}
    assert memos.verify_receipt(json.dumps(answer).encode()).receipt == receipt


def test_elsewhere_the_signature_is_true_and_its_key_known_once_it_is_trusted(memos: MemOS, tmp_path: Path) -> None:
    receipt = erased(memos, say(memos, SECRET))
    there = settings_for(tmp_path / "elsewhere")
    found = receipts.verify_receipt(there, raw(receipt))
    assert found.known_as is None
    keys.trust(there, keys.key_from(found.key), "the office")
    assert receipts.verify_receipt(there, raw(receipt)).known_as == "the office"
    with opened(there) as other:
        assert other.verify_receipt(raw(receipt)).noted is False


def test_a_signature_of_a_bundle_is_none_of_a_receipt(memos: MemOS, settings: Settings) -> None:
    keys.create_keys(settings)
    document = receipts.plain(erased(memos, say(memos, SECRET)))
    key = keys.signing_key(settings)
    assert key is not None
    body = {name: value for name, value in document.items() if name != "signature"}
    document["signature"] = json.loads(key.sign(receipts.json_bytes(body)))
    with pytest.raises(NotAllowed):
        memos.verify_receipt(json.dumps(document).encode())


def test_a_receipt_is_fetched_again_after_a_restart_and_all_are_listed(settings: Settings, clock: HandClock) -> None:
    with opened(settings, clock) as memos:
        first = erased(memos, say(memos, SECRET))
        clock.pass_by(hours=1)
        second = erased(memos, say(memos, "The bridge keeper wears a green coat."))
    with opened(settings, clock) as memos:
        assert memos.receipt(first.id, ME) == first
        assert memos.receipts(ME) == (first, second)
        with pytest.raises(NotFound, match="receipt list"):
            memos.receipt("r_nowhere", ME)


def test_who_erased_gets_a_receipt_without_places_and_the_owner_one_with_them(memos: MemOS, tmp_path: Path) -> None:
    id = say(memos, SECRET)
    copy = str(memos.backup(tmp_path / "copy.duckdb", ME))
    receipt = erased(memos, id, caller=GUEST)
    assert (receipt.out_of_reach, receipt.withheld) == ((), 1)
    assert memos.receipt(receipt.id, GUEST) == receipt
    assert memos.receipt(receipt.id, ME).out_of_reach == (copy,)
    assert all(memos.verify_receipt(raw(memos.receipt(receipt.id, who))).noted for who in (GUEST, ME))
    assert copy not in str(memos.audit(Caller(Principal("admin", grants=(("default", tuple(Action)),)))))
    with pytest.raises(NotFound):
        memos.receipt(receipt.id, Caller(Principal("other", grants=(("default", (Action.READ,)),))))
    with pytest.raises(NotAllowed):
        memos.receipts(GUEST)


def test_who_is_not_the_owner_hears_of_no_place_no_other_cube_and_no_conversation(
    memos: MemOS, clock: HandClock
) -> None:
    gone = (AdapterGone("default", 1, True), AdapterGone("other", 4, True))
    kv = (("", 2), ("default", 1), ("other", 1))
    receipt = Receipt("r_1", clock.now(), ("m_1",), (), (), kv=kv, lora=gone)
    reached = receipts.Reached(withdrawn=("/shelf#default@1",), out_of_reach=("/copy.duckdb",))
    for owner, told in ((True, None), (False, ({"default": 1}, [{"cube": "default", "version": 1, "served": True}]))):
        draft = receipts.Draft(receipt, ("default",), "guest", owner)
        found = receipts.finished(memos._parts, draft, reached, clock.now())
        assert found["document"]["out_of_reach"] == ["/copy.duckdb"]
        shown = found.get("shown")
        assert (shown and (shown["kv"], shown["lora"])) == told
        assert shown is None or (shown["withdrawn"], shown["out_of_reach"], shown["withheld"]) == ([], [], 2)


def test_an_erasure_whose_key_cannot_be_used_is_done_and_its_receipt_says_that_nobody_signed(
    memos: MemOS, settings: Settings
) -> None:
    settings.keys_folder.mkdir(mode=0o700)
    key = settings.keys_folder / keys.RECEIPTS
    key.write_text("not a key")
    key.chmod(0o600)
    receipt = erased(memos, say(memos, SECRET))
    assert receipt.signed is None
    assert receipt.finished_at is not None


def test_the_receipt_of_a_sealed_store_is_signed_and_kept_sealed(tmp_path: Path) -> None:
    settings = encrypted(settings_for(tmp_path / "sealed"))
    with opened(settings) as memos:
        receipt = erased(memos, say(memos, SECRET))
        assert memos.receipt(receipt.id, ME) == receipt
        ((detail,),) = memos._parts.vault.rows("SELECT detail FROM audit WHERE action = 'receipt'")
        assert "signature" not in detail
        assert memos.verify(ME) == ()


KILLED = """
import os, sys
from pathlib import Path
from engine.memos import MemOS
from engine.operations import Caller, Forget, Mode
from engine.settings import Settings
from engine.store.shelf import MemStore

if sys.argv[3] == "shelf":  # dies with the bundle's entry gone, and the bundle still there
    MemStore._rebuild = lambda shelf: os.kill(os.getpid(), 9)

def progress(done, total, message):
    if sys.argv[3] == "committed" and message == "removing every copy":
        os.kill(os.getpid(), 9)

memos = MemOS.open(Settings(data=Path(sys.argv[1]), embedder="none", backup_every_h=0))
memos.forget(Forget(ids=(sys.argv[2],), mode=Mode.ERASE, confirmed=True), Caller(), progress)
"""


@pytest.mark.parametrize("where", ["committed", "shelf"])
def test_an_erasure_whose_process_was_killed_has_its_receipt_after_the_next_start(
    settings: Settings, tmp_path: Path, where: str
) -> None:
    shelf = tmp_path / "shelf"
    with opened(settings) as memos:
        id = say(memos, SECRET, cube="harbour")
        published = Path(memos.publish(Publish("harbour", str(shelf)), ME).path)
    with run_python(KILLED, str(settings.data), id, where) as process:
        assert process.wait(LONG_S) == -9
    assert published.exists()
    with opened(settings) as memos:
        (receipt,) = memos.receipts(ME)
        assert receipt.erased == (id,)
        assert memos.verify_receipt(raw(receipt)).noted is True
        assert len(receipt.withdrawn) == 1
        assert not published.exists()
        assert memos.shelf(str(shelf), ME) == ()
        (said,) = memos.status(ME).work
        assert said == f"an erasure was cut off when the process ended, and is finished (receipt {receipt.id})"
        assert memos.status(GUEST).work == ()


def test_the_answer_to_an_erasure_that_is_sent_again_is_the_signed_receipt(memos: MemOS) -> None:
    caller = Caller(operation="erase-1")
    first = erased(memos, say(memos, SECRET), caller=caller)
    wanted = Forget(ids=first.erased, mode=Mode.ERASE, confirmed=True)
    again = memos.answered_forget(wanted, caller)
    assert again is not None
    assert again.receipt == first
    assert first.signed is not None


def test_a_bundle_that_was_packed_is_told_as_out_of_reach(memos: MemOS, tmp_path: Path) -> None:
    id = say(memos, SECRET)
    memos.pack(Pack("default", tmp_path / "cube.memcube"), ME)
    assert erased(memos, id).out_of_reach == (str(tmp_path / "cube.memcube"),)
