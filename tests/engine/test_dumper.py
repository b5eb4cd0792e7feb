"""pack: what goes into a bundle, what never does, and what is left when it is stopped."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cubes import Action, CubePolicy, Scope, Sensitivity
from cubes.bundle import open_bundle
from cubes.encryption import Identity
from cubes.records import PackedMemory
from engine import keys
from engine.cube_operations import Govern, Pack, Packed, SetCube, Share
from engine.errors import Cancelled, Invalid, NotAllowed, NotFound
from engine.memos import MemOS
from engine.operations import Caller, Principal, Progress, silent
from engine.settings import Settings
from tests.conftest import HandClock
from tests.engine.stores import ME, archive, ask, erase, opened, say, settings_for

READER = Caller(Principal("laptop", grants=(("home", (Action.READ,)),)))
SHARER = Caller(Principal("laptop", grants=(("home", (Action.SHARE,)),)))
STRANGER = Caller(Principal("guest"))
LONG = " ".join(f"Sentence number {n} of the long report about tides." for n in range(400))


def pack(memos: MemOS, path: Path, caller: Caller = ME, progress: Progress = silent, **more: object) -> Packed:
    return memos.pack(replace(Pack("home", path), **more), caller, progress)  # type: ignore[arg-type]


def memories(path: Path) -> dict[str, PackedMemory]:
    with open_bundle(path) as bundle:
        return {memory.id: memory for memory in bundle.memories()}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "home.memcube"


def test_uses_that_are_not_written_yet_are_in_it(memos: MemOS, bundle: Path) -> None:
    id = say(memos, "The harbour opens at eight.", cube="home")
    assert ask(memos, "harbour").memories
    pack(memos, bundle)
    assert memories(bundle)[id].usage.access_count == 1


def test_without_history_only_the_present_versions_are_in_it(memos: MemOS, bundle: Path) -> None:
    id = say(memos, "The harbour opens at eight.", cube="home")
    archive(memos, id)
    assert pack(memos, bundle).versions == 2
    assert pack(memos, bundle, replace=True, history=False).versions == 1
    assert memories(bundle)[id].current.version == 2


def test_what_is_sensitive_is_left_out_with_the_lineage_that_leads_to_it(memos: MemOS, bundle: Path) -> None:
    old = say(memos, "The safe opens at 1234.", cube="home", sensitivity=Sensitivity.SECRET)
    new = say(memos, "The safe was sold.", cube="home", supersedes=(old,), sensitivity=Sensitivity.SECRET)
    memos.govern(Govern((new,), sensitivity=Sensitivity.NORMAL), ME)
    packed = pack(memos, bundle, redact=Sensitivity.PERSONAL)
    (memory,) = memories(bundle).values()
    assert (memory.id, memory.lineage, packed.redacted) == (new, (), "personal")
    assert [version.version for version in memory.history] == []  # its first version was secret
    assert b"1234" not in bundle.read_bytes()


def test_a_long_text_goes_with_a_piece_that_is_too_sensitive(memos: MemOS, bundle: Path) -> None:
    whole = say(memos, LONG, cube="home")
    (piece, *_) = (id for relation, id in memos.memory(whole, ME).derived if relation == "part_of")
    other = say(memos, "The harbour opens at eight.", cube="home")
    memos.govern(Govern((piece,), sensitivity=Sensitivity.SECRET), ME)
    pack(memos, bundle, redact=Sensitivity.SECRET)
    assert set(memories(bundle)) == {other}


def test_nobody_packs_what_it_may_not_see(memos: MemOS, bundle: Path) -> None:
    seen = say(memos, "The harbour opens at eight.", cube="home")
    say(memos, "The safe opens at 1234.", cube="home", sensitivity=Sensitivity.SECRET)
    packed = pack(memos, bundle, SHARER)
    assert (set(memories(bundle)), packed.memories, packed.redacted) == ({seen}, 1, "secret")


def test_packing_needs_the_right_to_share_or_a_public_cube(memos: MemOS, bundle: Path) -> None:
    normal = say(memos, "The harbour opens at eight.", cube="home")
    say(memos, "Anna is 41.", cube="home", sensitivity=Sensitivity.PERSONAL)
    with pytest.raises(NotAllowed):
        pack(memos, bundle, READER)
    with pytest.raises(NotFound):
        pack(memos, bundle, STRANGER)
    assert files(bundle.parent) == []
    memos.share(Share("home", read=Scope.PUBLIC, principal="laptop", actions=(Action.READ,)), ME)
    pack(memos, bundle, STRANGER)
    assert set(memories(bundle)) == {normal}
    with open_bundle(bundle) as opened_bundle:
        assert opened_bundle.manifest.cube.policy.grants == ()  # who else is let in is not for everyone
    pack(memos, bundle, replace=True)
    with open_bundle(bundle) as opened_bundle:
        assert opened_bundle.manifest.cube.policy.grants[0].principal == "laptop"


def test_a_snapshot_is_packed_as_the_cube_was_then(memos: MemOS, bundle: Path, clock: HandClock) -> None:
    first = say(memos, "The harbour opens at eight.", cube="home")
    gone = say(memos, "Anna keeps bees.", cube="home")
    memos.set_cube(SetCube("home", description="then"), ME)
    clock.pass_by(hours=1)
    memos.snapshot("home", "then", ME)
    clock.pass_by(hours=1)
    archive(memos, first)
    later = say(memos, "The harbour opens at nine.", cube="home", supersedes=(gone,))
    memos.set_cube(SetCube("home", description="now"), ME)
    pack(memos, bundle, snapshot="then")
    found = memories(bundle)
    assert set(found) == {first, gone}
    assert later not in found
    assert {memory.current.state.value for memory in found.values()} == {"generated"}
    assert all(not memory.history and not memory.lineage for memory in found.values())
    with open_bundle(bundle) as opened_bundle:
        assert opened_bundle.manifest.cube.description == "then"
    with pytest.raises(NotFound):
        pack(memos, bundle, replace=True, snapshot="never")


def test_it_is_the_cube_of_one_moment_though_it_is_written_to_meanwhile(memos: MemOS, bundle: Path) -> None:
    for number in range(30):
        say(memos, f"The harbour has number {number}.", cube="home")
    told = threading.Event()

    def progress(done: float, total: float | None, message: str) -> None:
        if not told.is_set():
            told.set()
            writer = threading.Thread(target=lambda: say(memos, "Anna keeps bees.", cube="home"))
            writer.start()
            writer.join()

    assert pack(memos, bundle, progress=progress).memories == 30
    assert memos.cube("home", ME).memories == 31


def test_stopping_it_leaves_nothing(memos: MemOS, bundle: Path) -> None:
    say(memos, "The harbour opens at eight.", cube="home")

    def stop(done: float, total: float | None, message: str) -> None:
        if message == "writing":
            raise Cancelled("stopped; nothing was changed")

    with pytest.raises(Cancelled):
        pack(memos, bundle, progress=stop)
    assert files(bundle.parent) == []
    say(memos, "It can be written to.", cube="home")


def test_a_file_that_is_there_is_kept_unless_it_may_be_replaced(memos: MemOS, bundle: Path) -> None:
    say(memos, "The harbour opens at eight.", cube="home")
    bundle.write_text("mine")
    with pytest.raises(Invalid):
        pack(memos, bundle)
    assert bundle.read_text() == "mine"
    pack(memos, bundle, replace=True)
    assert memories(bundle)


def test_nothing_of_the_store_itself_is_written_over(memos: MemOS, settings: Settings) -> None:
    say(memos, "The harbour opens at eight.", cube="home")
    with pytest.raises(Invalid):
        pack(memos, settings.database, replace=True)
    assert memos.verify(ME) == ()


def test_it_is_signed_where_there_is_a_key(memos: MemOS, settings: Settings, bundle: Path) -> None:
    say(memos, "The harbour opens at eight.", cube="home")
    assert pack(memos, bundle).signed_by is None
    own = keys.create_keys(settings)
    assert own.signing is not None
    assert pack(memos, bundle, replace=True).signed_by == own.signing.fingerprint
    assert memos.inspect(bundle).trusted
    assert pack(memos, bundle, replace=True, sign=False).signed_by is None


def test_it_is_encrypted_to_recipients_and_to_a_passphrase(memos: MemOS, bundle: Path, tmp_path: Path) -> None:
    say(memos, "The harbour opens at eight.", cube="home")
    identity = Identity.generate()
    pack(memos, bundle, recipients=(identity.recipient,))
    assert b"harbour" not in bundle.read_bytes()
    with open_bundle(bundle, identities=[identity]) as opened_bundle:
        assert opened_bundle.manifest.counts.memories == 1
    secret = tmp_path / "phrase"
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    pack(memos, bundle, replace=True, passphrase_file=secret)
    with pytest.raises(NotAllowed):
        memos.inspect(bundle)
    assert memos.inspect(bundle, secret).memories == 1


def test_the_audit_log_knows_the_file_and_an_erasure_names_it(memos: MemOS, bundle: Path) -> None:
    id = say(memos, "The harbour opens at eight.", cube="home")
    other = say(memos, "Anna keeps bees.", cube="other")
    packed = pack(memos, bundle)
    rows = {row.action: row.detail for row in memos.audit(ME) if row.action.startswith("pack")}
    assert rows["pack"]["path"] == str(bundle)
    assert (rows["packed"]["digest"], rows["packed"]["memories"]) == (packed.digest, 1)
    unrelated = erase(memos, other).receipt
    assert unrelated is not None
    assert str(bundle) not in unrelated.out_of_reach
    receipt = erase(memos, id).receipt
    assert receipt is not None
    assert str(bundle) in receipt.out_of_reach


def test_the_limits_and_the_watermark_are_in_the_header(memos: MemOS, bundle: Path) -> None:
    policy = CubePolicy(max_memories=10, ttl_days=30)
    memos.set_cube(SetCube("home", licence="CC-BY-4.0", policy=policy), ME)
    pack(memos, bundle)
    header = memos.inspect(bundle).header
    assert header.provenance is not None
    assert (header.provenance.store, header.provenance.cube) == (memos.status(ME).store_id, "home")
    assert (header.licence, header.policy) == ("CC-BY-4.0", policy)


def test_a_lost_disk_or_folder_is_named(memos: MemOS, tmp_path: Path) -> None:
    say(memos, "The harbour opens at eight.", cube="home")
    with pytest.raises(Invalid, match="no folder"):
        pack(memos, tmp_path / "not" / "there.memcube")


def test_what_was_erased_is_in_no_later_bundle(tmp_path: Path) -> None:
    with opened(settings_for(tmp_path / "data")) as memos:
        gone = say(memos, "The safe opens at 1234.", cube="home")
        say(memos, "Anna keeps bees.", cube="home", supersedes=(gone,))
        erase(memos, gone)
        pack(memos, tmp_path / "home.memcube")
    assert b"1234" not in (tmp_path / "home.memcube").read_bytes()
