"""Encrypted bundles: who has the key reads them, nobody else does, and nothing plain is left anywhere."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path

import pyrage
import pytest

from cubes import DamagedBundle, TooLargeBundle, UnusableFile, WrongKey
from cubes.bundle import inspect, open_bundle
from cubes.encryption import Identity, create_identity, load_identity
from cubes.passphrase import LOG_N, lock, unlock
from cubes.signing import Signed
from tests.cubes.bundles import TEST_KEY, rich_bundle, rich_memories
from tests.cubes.test_hostile import zipped

SENTENCE = "The harbour opens at nine"
PASSPHRASE = "correct horse battery staple ü"


def test_a_recipient_reads_it(tmp_path: Path) -> None:
    path, one, other = tmp_path / "x", Identity.generate(), Identity.generate()
    rich_bundle(path, recipients=[one.recipient, other.recipient], signing_key=TEST_KEY)
    for identity in (one, other):
        with open_bundle(path, identities=[Identity.generate(), identity], trust=Signed()) as bundle:
            assert list(bundle.memories()) == rich_memories()
    found = inspect(path, identities=[one])
    assert (found.encrypted, found.bytes) == (True, path.stat().st_size)


def test_a_passphrase_opens_it_and_so_do_the_recipients_beside_it(tmp_path: Path) -> None:
    path, identity = tmp_path / "x", Identity.generate()
    rich_bundle(path, passphrase=PASSPHRASE, recipients=[identity.recipient])
    for keys in ({"passphrase": PASSPHRASE}, {"identities": [identity]}):
        with open_bundle(path, **keys) as bundle:  # type: ignore[arg-type]
            assert list(bundle.memories()) == rich_memories()


@pytest.mark.parametrize("sealed", ["recipients", "passphrase"])
def test_nothing_plain_is_in_it_or_beside_it(sealed: str, tmp_path: Path) -> None:
    path, identity = tmp_path / "x", Identity.generate()
    keys = {"recipients": [identity.recipient]} if sealed == "recipients" else {"passphrase": PASSPHRASE}
    rich_bundle(path, **keys)
    raw = path.read_bytes()
    assert SENTENCE.encode() not in raw
    assert b"memcube" not in raw
    opened = {"identities": [identity]} if sealed == "recipients" else {"passphrase": PASSPHRASE}
    with open_bundle(path, **opened) as bundle:  # type: ignore[arg-type]
        next(bundle.memories())
        assert list(tmp_path.iterdir()) == [path]
    assert list(tmp_path.iterdir()) == [path]


def test_what_does_not_open_it_is_named(tmp_path: Path) -> None:
    identity, stranger = Identity.generate(), Identity.generate()
    rich_bundle(tmp_path / "keyed", recipients=[identity.recipient])
    rich_bundle(tmp_path / "locked", passphrase=PASSPHRASE)
    keyed, locked = tmp_path / "keyed", tmp_path / "locked"
    with pytest.raises(WrongKey, match="give an identity"):
        inspect(keyed)
    with pytest.raises(WrongKey, match="none of the identities"):
        inspect(keyed, identities=[stranger])
    with pytest.raises(WrongKey, match="encrypted with a passphrase: give that"):
        inspect(locked)
    with pytest.raises(WrongKey, match="the passphrase does not open it"):
        inspect(locked, passphrase="wrong")
    with pytest.raises(WrongKey, match="none of the identities"):
        inspect(locked, identities=[stranger])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["keyed", "locked"]


def test_what_was_changed_is_not_opened(tmp_path: Path) -> None:
    identity = Identity.generate()
    rich_bundle(tmp_path / "x", recipients=[identity.recipient])
    raw = (tmp_path / "x").read_bytes()
    for changed in (raw[:-1], raw[:-1] + bytes([raw[-1] ^ 1]), raw + b"x", raw[: raw.index(b"--- ") + 60]):
        with pytest.raises(DamagedBundle, match="changed or cut short"):
            inspect(io.BytesIO(changed), identities=[identity])


def test_what_is_inside_must_be_a_bundle(tmp_path: Path) -> None:
    identity = Identity.generate()
    inside = pyrage.encrypt(b"Dear diary", [pyrage.x25519.Recipient.from_str(identity.recipient)])
    with pytest.raises(DamagedBundle):
        inspect(io.BytesIO(inside), identities=[identity])


def test_a_file_that_age_locked_with_a_passphrase_says_what_to_do() -> None:
    locked = lock(b"x", PASSPHRASE)
    with pytest.raises(WrongKey, match="age -d"):
        inspect(io.BytesIO(locked), passphrase=PASSPHRASE)


def test_a_recipient_that_is_none_is_named_before_anything_is_written(tmp_path: Path) -> None:
    for wrong in ("ada", "age1x", "AGE-SECRET-KEY-1AAAA", ""):
        with pytest.raises(WrongKey, match="is no age recipient"):
            rich_bundle(tmp_path / "x", recipients=[wrong])
    with pytest.raises(WrongKey, match="at most 100"):
        rich_bundle(tmp_path / "x", recipients=["age1x"] * 101)
    assert list(tmp_path.iterdir()) == []


# --- age itself -----------------------------------------------------------------------------------------------------


def test_it_is_an_age_file_of_the_plain_bundle(tmp_path: Path) -> None:
    identity = create_identity(tmp_path / "identity.txt")
    rich_bundle(tmp_path / "plain")
    rich_bundle(tmp_path / "keyed", recipients=[identity.recipient])
    secret = pyrage.x25519.Identity.from_str((tmp_path / "identity.txt").read_text().splitlines()[-1])
    assert pyrage.decrypt((tmp_path / "keyed").read_bytes(), [secret]) == (tmp_path / "plain").read_bytes()
    tool = shutil.which("age") or shutil.which("rage")
    if tool:
        opened = subprocess.run(
            [tool, "-d", "-i", tmp_path / "identity.txt", tmp_path / "keyed"], capture_output=True, check=True
        )
        assert opened.stdout == (tmp_path / "plain").read_bytes()


def test_under_a_passphrase_it_is_two_age_files(tmp_path: Path) -> None:
    rich_bundle(tmp_path / "plain")
    rich_bundle(tmp_path / "locked", passphrase=PASSPHRASE)
    with zipfile.ZipFile(tmp_path / "locked") as archive:
        assert archive.namelist() == ["identity.age", "cube.age"]
        identity = pyrage.passphrase.decrypt(archive.read("identity.age"), PASSPHRASE).decode()
        secret = pyrage.x25519.Identity.from_str(identity.splitlines()[-1])
        assert pyrage.decrypt(archive.read("cube.age"), [secret]) == (tmp_path / "plain").read_bytes()


def test_what_another_program_locked_is_opened(tmp_path: Path) -> None:
    """Made as FORMAT.md says, with `zipfile` and an age library."""
    rich_bundle(tmp_path / "plain")
    secret = pyrage.x25519.Identity.generate()
    members = {
        "identity.age": lock(f"# made elsewhere\n{secret}\n".encode(), PASSPHRASE),
        "cube.age": pyrage.encrypt((tmp_path / "plain").read_bytes(), [secret.to_public()]),
    }
    with open_bundle(io.BytesIO(zipped(members)), passphrase=PASSPHRASE) as bundle:
        assert list(bundle.memories()) == rich_memories()
    members["more.age"] = b""
    with pytest.raises(DamagedBundle, match="do not belong"):
        inspect(io.BytesIO(zipped(members)), passphrase=PASSPHRASE)


def test_the_cost_of_a_passphrase_is_bounded_in_both_directions() -> None:
    locked = lock(b"secret", PASSPHRASE)
    assert f" {LOG_N}\n".encode() in locked
    assert unlock(locked, PASSPHRASE) == b"secret"
    with pytest.raises(WrongKey):
        unlock(locked, PASSPHRASE + " ")
    for log_n in (b"19", b"30", b"63"):
        with pytest.raises(TooLargeBundle, match="would take"):
            unlock(locked.replace(f" {LOG_N}\n".encode(), b" " + log_n + b"\n", 1), PASSPHRASE)
    for broken in (b"", locked[:60], locked.replace(b"scrypt", b"X25519"), b"x" + locked):
        with pytest.raises(DamagedBundle):
            unlock(broken, PASSPHRASE)
    with pytest.raises(WrongKey):
        unlock(locked[:-1], PASSPHRASE)


# --- identities -----------------------------------------------------------------------------------------------------


def test_an_identity_is_kept_for_its_owner_alone_and_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "identity.age"
    identity = create_identity(path)
    assert identity.recipient.startswith("age1")
    assert load_identity(path).recipient == identity.recipient
    with pytest.raises(UnusableFile, match="never written over"):
        create_identity(path)
    if os.name != "nt":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o644)
        with pytest.raises(UnusableFile, match="chmod 600"):
            load_identity(path)


def test_an_identity_never_shows_itself(tmp_path: Path) -> None:
    identity = create_identity(tmp_path / "identity.age")
    assert "AGE-SECRET-KEY" in (tmp_path / "identity.age").read_text()
    assert repr(identity) == "Identity()"


def test_a_file_without_an_identity_is_named(tmp_path: Path) -> None:
    path = tmp_path / "identity.age"
    for content in (b"", b"hello", b"AGE-SECRET-KEY-1QQQQ\n", b"\xff\xfe"):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(WrongKey, match="no age identity"):
            load_identity(path)
