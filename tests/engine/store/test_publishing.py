"""Between a store and a shelf: publish, look, install, bring up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from cubes import Action, Sensitivity
from engine import keys
from engine.cube_operations import Govern, Install, Pack, Publish
from engine.errors import Corrupt, Invalid, NotAllowed, NotFound
from engine.memos import MemOS
from engine.operations import Caller, Principal
from engine.settings import Settings
from tests.conftest import HandClock
from tests.engine.store.places import web_server
from tests.engine.stores import ME, ask, contents, opened, say, settings_for

SHARER = Caller(Principal("sharer", grants=(("harbour", (Action.SHARE,)),)))


@pytest.fixture
def harbour(memos: MemOS) -> MemOS:
    say(memos, "The pier is made of oak.", cube="harbour")
    return memos


@pytest.fixture
def elsewhere(tmp_path: Path) -> Settings:
    return settings_for(tmp_path / "elsewhere")


def audited(memos: MemOS) -> str:
    return "\n".join(map(str, memos.audit(ME)))


def test_a_cube_travels_over_a_shelf_and_is_brought_up_to_date(
    harbour: MemOS, elsewhere: Settings, tmp_path: Path, clock: HandClock
) -> None:
    keys.create_keys(harbour._parts.vault.settings)
    shelf = str(tmp_path / "shelf")
    packed = harbour.publish(Publish("harbour", shelf), ME)
    assert packed.signed_by is not None
    assert Path(packed.path).read_bytes()[:2] == b"PK"
    (entry,) = harbour.shelf(shelf, ME)
    assert (entry.name, entry.memories, entry.signed_by, entry.digest) == (
        "harbour",
        1,
        packed.signed_by,
        packed.digest,
    )
    with opened(elsewhere) as there:
        installed = there.install(Install(f"{shelf}#harbour"), ME)
        assert (installed.cube, installed.memories, installed.signed_by) == ("harbour", 1, packed.signed_by)
        clock.pass_by(hours=1)
        say(harbour, "The crane is painted yellow.", cube="harbour")
        harbour.publish(Publish("harbour", shelf), ME)
        upgraded = there.install(Install(f"{shelf}#harbour", upgrade=True), ME)
        assert upgraded.diff is not None
        assert len(upgraded.diff.added) == 1
        assert len(contents(ask(there, "pier oak crane yellow"))) == 2
        old = there.install(Install(f"{shelf}#harbour@{packed.digest.removeprefix('sha256:')[:12]}", "older"), ME)
        assert old.memories == 1
        assert list((elsewhere.data / "fetched").iterdir()) == []
    assert [shelved.memories for shelved in harbour.shelf(shelf, ME, "harb")] == [2, 1]
    assert harbour.shelf(shelf, ME, "garden") == ()


def test_what_is_secret_is_left_out_unless_it_is_asked_for(harbour: MemOS, tmp_path: Path) -> None:
    id = say(harbour, "The vault opens to the left.", cube="harbour")
    harbour.govern(Govern((id,), sensitivity=Sensitivity.SECRET), ME)
    shelf = str(tmp_path / "shelf")
    assert harbour.publish(Publish("harbour", shelf), ME).memories == 1
    assert harbour.publish(Publish("harbour", shelf, redact=None), ME).memories == 2
    assert {(entry.redacted, entry.memories) for entry in harbour.shelf(shelf, ME)} == {("secret", 1), (None, 2)}


def test_a_bundle_that_is_there_as_a_file_is_published_as_it_is(harbour: MemOS, tmp_path: Path) -> None:
    file = tmp_path / "h.memcube"
    made = harbour.pack(Pack("harbour", file), ME)
    packed = harbour.publish(Publish(str(file), str(tmp_path / "shelf")), ME)
    assert packed.digest == made.digest
    assert Path(packed.path).read_bytes() == file.read_bytes()
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(Corrupt, match=r"h\.memcube"):
        harbour.publish(Publish(str(file), str(tmp_path / "other")), ME)
    assert not (tmp_path / "other").exists()


def test_an_encrypted_bundle_is_described_by_its_name_alone(harbour: MemOS, tmp_path: Path) -> None:
    recipient = keys.create_keys(harbour._parts.vault.settings).recipient
    assert recipient is not None
    shelf = str(tmp_path / "shelf")
    harbour.publish(Publish("harbour", shelf, recipients=(recipient,)), ME)
    (entry,) = harbour.shelf(shelf, ME)
    assert (entry.name, entry.encrypted, entry.memories, entry.description) == ("harbour", True, 0, "")
    assert harbour.install(Install(f"{shelf}#harbour", "copy"), ME).memories == 1


def test_what_is_not_signed_is_published_only_where_anything_is_trusted(harbour: MemOS, tmp_path: Path) -> None:
    settings = harbour._parts.vault.settings
    assert harbour.publish(Publish("harbour", str(tmp_path / "one")), ME).signed_by is None
    keys.set_policy(settings, "signed")
    with pytest.raises(NotAllowed, match=r"not signed, and .* 'signed'.*cube key create"):
        harbour.publish(Publish("harbour", str(tmp_path / "two")), ME)
    assert not (tmp_path / "two").exists()
    keys.create_keys(settings)
    assert harbour.publish(Publish("harbour", str(tmp_path / "two")), ME).signed_by is not None


def test_shelves_are_for_the_owner(harbour: MemOS, tmp_path: Path) -> None:
    shelf = str(tmp_path / "shelf")
    for refused in (
        lambda: harbour.publish(Publish("harbour", shelf), SHARER),
        lambda: harbour.shelf(shelf, SHARER),
        lambda: harbour.install(Install(f"{shelf}#harbour"), SHARER),
        lambda: harbour.install(Install("https://127.0.0.1:1/x.memcube"), SHARER),
    ):
        with pytest.raises(NotAllowed):
            refused()
    assert not (tmp_path / "shelf").exists()


def test_a_web_server_is_installed_from_and_its_password_is_kept_nowhere(
    harbour: MemOS, elsewhere: Settings, tmp_path: Path
) -> None:
    packed = harbour.publish(Publish("harbour", str(tmp_path / "shelf")), ME)
    inside = Path(packed.path).relative_to(tmp_path).as_posix()
    with web_server(tmp_path, password="s3cret-word") as port, opened(elsewhere) as there:
        host = f"ada:s3cret-word@127.0.0.1:{port}"
        assert [entry.name for entry in there.shelf(f"http://{host}/shelf", ME)] == ["harbour"]
        there.install(Install(f"http://{host}/shelf#harbour"), ME)
        there.install(Install(f"http://{host}/{inside}", "single"), ME)
        with pytest.raises(NotFound, match="no 'garden' on the shelf http://127"):
            there.install(Install(f"http://{host}/shelf#garden"), ME)
        with pytest.raises(Invalid, match="SHELF#NAME"):
            there.install(Install(f"http://{host}/shelf"), ME)
        with pytest.raises(NotAllowed, match="can only be read"):
            there.publish(Publish("harbour", f"http://{host}/shelf"), ME)
        said = audited(there)
    assert f"http://127.0.0.1:{port}/shelf#harbour" in said
    assert "s3cret" not in said
