"""The key of an encrypted store: from a passphrase file or the keyring, or one clear error and nothing else."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends import fail, null
from keyring.backends.chainer import ChainerBackend
from keyring.errors import KeyringLocked

from engine.errors import Invalid, MemosError, NotAllowed, Unavailable
from engine.settings import Settings, settings_from
from engine.vault.key_source import (
    KeyFile,
    KeySource,
    PlatformKeyring,
    Work,
    _digest,
    key_files,
    note_source,
    settle_source,
    unwrap,
    wrap,
)

CHEAP = Work(n=2)
KEY = bytes(range(100, 132))
WORDS = "correct horse battery staple"


@dataclass
class Ring(KeyringBackend):
    """A keyring in memory."""

    priority: float = 5.0  # type: ignore[assignment]
    kept: dict[tuple[str, str], str] = field(default_factory=dict)
    locked: bool = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise KeyringLocked("ask the person")
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "data").mkdir()
    return Settings(data=tmp_path / "data")


@pytest.fixture
def ring() -> Iterator[Ring]:
    before = keyring.get_keyring()
    used = Ring()
    keyring.set_keyring(used)
    yield used
    keyring.set_keyring(before)


def file_with(path: Path, words: str | bytes, mode: int = 0o600) -> KeyFile:
    path.write_bytes(words if isinstance(words, bytes) else words.encode())
    path.chmod(mode)
    return KeyFile(path)


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return file_with(tmp_path / "words", WORDS + "\n")


def wrapped(settings: Settings, source: KeySource) -> str:
    note_source(settings, source)
    return wrap(KEY, source, "s_1", CHEAP)


# --- passphrase files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_the_end_of_the_line_is_no_part_of_the_passphrase(settings: Settings, file: KeyFile, ending: str) -> None:
    record = wrapped(settings, file)
    file.path.write_text(WORDS + ending, newline="")
    assert unwrap(record, settings) == KEY
    file.path.write_text(f"{WORDS} {ending}", newline="")
    with pytest.raises(NotAllowed):
        unwrap(record, settings)


def test_the_environment_overrides_the_file_that_is_noted(settings: Settings, file: KeyFile, tmp_path: Path) -> None:
    record = wrapped(settings, file)
    moved = file.path.rename(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match=f"{file.path} cannot be read .No such file.*MEMOS_KEY_FILE"):
        unwrap(record, settings)
    told = settings_from({"MEMOS_KEY_FILE": str(moved)}, data=settings.data)
    assert unwrap(record, told) == KEY
    settings.encryption_note.unlink()
    assert unwrap(record, told) == KEY
    with pytest.raises(Unavailable, match="set MEMOS_KEY_FILE to the file"):
        unwrap(record, settings)


def test_a_wrong_passphrase_is_not_allowed_and_names_the_file(settings: Settings, file: KeyFile) -> None:
    record = wrapped(settings, file)
    file_with(file.path, "another passphrase")
    with pytest.raises(NotAllowed, match=f"the passphrase in {file.path} is not the one of this store"):
        unwrap(record, settings)


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such modes")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_passphrase_that_others_may_read_is_refused(settings: Settings, file: KeyFile, mode: int) -> None:
    record = wrapped(settings, file)
    file.path.chmod(mode)
    for use in (lambda: unwrap(record, settings), lambda: wrap(KEY, file, "s_1", CHEAP)):
        with pytest.raises(NotAllowed, match=f"chmod 600 '{file.path}'"):
            use()


@pytest.mark.parametrize("words", [b"", b"\n", b"1234567", b"x" * 5000])
def test_a_passphrase_that_is_none_is_invalid(tmp_path: Path, words: bytes) -> None:
    with pytest.raises(Invalid, match="8 to 4096 bytes"):
        wrap(KEY, file_with(tmp_path / "words", words), "s_1", CHEAP)


def test_a_folder_is_no_passphrase_file(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="directory"):
        wrap(KEY, KeyFile(tmp_path), "s_1", CHEAP)


def test_the_same_passphrase_wraps_differently_each_time(settings: Settings, file: KeyFile) -> None:
    records = [json.loads(wrapped(settings, file)) for _ in range(2)]
    assert records[0]["salt"] != records[1]["salt"]
    assert records[0]["wrapped"] != records[1]["wrapped"]
    assert (records[0]["n"], records[0]["r"], records[0]["p"]) == (2, 8, 1)
    assert (Work().n, Work().r, Work().p) == (131072, 8, 1)


# --- the record -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"wrapped": "AAAA"},
        {"wrapped": "not base64 at all!"},
        {"salt": "AAAAAAAAAAAAAAAAAAAAAA=="},
        {"store": "s_2"},
        {"n": 4},
        {"n": 1 << 40},
        {"n": "2"},
        {"format": 2},
        {"source": "keyring"},
        {"more": 1},
    ],
)
def test_an_edited_record_is_unavailable_and_never_opened(
    settings: Settings, file: KeyFile, ring: Ring, change: dict[str, object]
) -> None:
    record = json.loads(wrapped(settings, file))
    with pytest.raises(Unavailable, match=r"the wrapped key .* was edited"):
        unwrap(json.dumps(record | change), settings)


@pytest.mark.parametrize("record", ["", "nonsense", "{}", "[]", "null", "[" * 100_000, '{"digest": NaN}'])
def test_a_record_that_is_none_is_unavailable(settings: Settings, record: str) -> None:
    with pytest.raises(Unavailable, match=r"the wrapped key .* was edited"):
        unwrap(record, settings)


def test_a_record_that_was_edited_together_with_its_digest_does_not_open(settings: Settings, file: KeyFile) -> None:
    record = json.loads(wrapped(settings, file))
    del record["digest"]
    for change in ({"store": "s_2"}, {"n": 4}, {"wrapped": json.loads(wrapped(settings, file))["wrapped"]}):
        edited = record | change
        with pytest.raises(NotAllowed):
            unwrap(json.dumps(edited | {"digest": _digest(edited)}), settings)
    huge = record | {"n": 1 << 40}
    with pytest.raises(Unavailable, match="edited"):
        unwrap(json.dumps(huge | {"digest": _digest(huge)}), settings)


# --- the keyring ----------------------------------------------------------------------------------------------------


def test_the_keyring_keeps_one_key_for_each_store_and_never_replaces_it(settings: Settings, ring: Ring) -> None:
    record = wrapped(settings, PlatformKeyring())
    assert list(ring.kept) == [("memos-mcp", "s_1")]
    kept = dict(ring.kept)
    assert unwrap(record, settings) == KEY
    again = wrap(KEY, PlatformKeyring(), "s_1")
    assert ring.kept == kept
    assert unwrap(again, settings) == unwrap(record, settings) == KEY
    wrap(KEY, PlatformKeyring(), "s_2")
    assert len(ring.kept) == 2
    settings.encryption_note.unlink()
    assert unwrap(record, settings) == KEY


def test_a_keyring_without_the_key_or_with_another_one_or_locked_says_so(settings: Settings, ring: Ring) -> None:
    record = wrapped(settings, PlatformKeyring())
    ring.locked = True
    with pytest.raises(Unavailable, match=r"KeyringLocked.: unlock it"):
        unwrap(record, settings)
    ring.locked = False
    for other in ("short", "AAAA", "ü"):
        ring.kept["memos-mcp", "s_1"] = other
        with pytest.raises(NotAllowed, match="user s_1"):
            unwrap(record, settings)
    ring.kept.clear()
    wrap(KEY, PlatformKeyring(), "s_1")
    with pytest.raises(NotAllowed, match="the key in the keyring is not the one of this store"):
        unwrap(record, settings)
    ring.kept.clear()
    with pytest.raises(Unavailable, match=r"the keyring has no key for this store .service memos-mcp, user s_1."):
        unwrap(record, settings)
    assert ring.kept == {}


class Chain(ChainerBackend):
    backends = ()  # type: ignore[assignment]


def test_a_keyring_that_keeps_no_secrets_is_refused_and_the_way_out_is_named(settings: Settings, ring: Ring) -> None:
    record = wrapped(settings, PlatformKeyring())
    weak = Ring(priority=0.5, kept=ring.kept)
    chain = Chain()
    chain.backends = (weak,)  # type: ignore[assignment]
    plain = type("PlaintextKeyring", (Ring,), {"__module__": "keyrings.alt.file"})()
    for backend in (fail.Keyring(), null.Keyring(), weak, chain, Chain(), plain):
        keyring.set_keyring(backend)
        for use in (lambda: wrap(KEY, PlatformKeyring(), "s_1"), lambda: unwrap(record, settings)):
            with pytest.raises(Unavailable, match=r"no keyring that keeps secrets safe.*--passphrase-file"):
                use()
    chain.backends = (weak, ring)  # type: ignore[assignment]
    keyring.set_keyring(chain)
    assert unwrap(record, settings) == KEY


# --- where it is said -----------------------------------------------------------------------------------------------


def test_the_note_names_the_place_of_the_key_and_never_the_key(settings: Settings, file: KeyFile, ring: Ring) -> None:
    note_source(settings, file, (Path("/old"),))
    assert key_files(settings) == (file.path, Path("/old"))
    assert key_files(replace(settings, key_file=Path("/other"))) == (Path("/other"),)
    settle_source(settings)
    assert json.loads(settings.encryption_note.read_text()) == {"source": "passphrase", "path": str(file.path)}
    assert os.name != "posix" or settings.encryption_note.stat().st_mode & 0o777 == 0o600
    note_source(settings, PlatformKeyring(), (file.path,))
    assert key_files(settings) == (file.path,)
    settle_source(settings)
    assert json.loads(settings.encryption_note.read_text()) == {"source": "keyring"}


@pytest.mark.parametrize("text", ["", "[]", "7", '{"path": 7}', '{"before": 7}', "\ud800", "[" * 100_000])
def test_a_note_that_cannot_be_read_is_unavailable(settings: Settings, file: KeyFile, text: str) -> None:
    record = wrapped(settings, file)
    settings.encryption_note.write_text(text, errors="surrogatepass")
    with pytest.raises(Unavailable, match=r"encryption.json cannot be read: set MEMOS_KEY_FILE"):
        unwrap(record, settings)
    assert unwrap(record, replace(settings, key_file=file.path)) == KEY


def test_no_message_and_no_log_holds_a_key_or_a_passphrase(
    settings: Settings, file: KeyFile, ring: Ring, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    said = []
    record, kept = wrapped(settings, file), wrap(KEY, PlatformKeyring(), "s_1")
    other = file_with(tmp_path / "other", "another passphrase")
    (secret,) = ring.kept.values()
    for stored, use in ((record, replace(settings, key_file=other.path)), (record[:-9], settings), (kept, settings)):
        ring.kept["memos-mcp", "s_1"] = "c2VjcmV0IG9mIGFub3RoZXI="
        with pytest.raises(MemosError) as refusal:
            unwrap(stored, use)
        said.append(f"{refusal.value!r} {refusal.value.__cause__!r}")
    everything = "\n".join([*said, caplog.text, settings.encryption_note.read_text(), repr(file), record])
    for word in (WORDS, "another passphrase", secret, "c2VjcmV0", KEY.hex()):
        assert word not in everything
