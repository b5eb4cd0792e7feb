"""`encrypt` and `decrypt` from a shell: the daemon finds the key by itself, and says what is wrong where it cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.memos_mcp.processes import LONG_S, alive, free, until
from tests.memos_mcp.shell import Shell, shell

SECRET = "Quillfeather hid the zylophorous lantern."
WORDS = "correct horse battery staple"


@pytest.fixture
def sh(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "words"
    path.write_text(WORDS + "\n")
    path.chmod(0o600)
    return path


def readable(folder: Path) -> list[str]:
    wanted = (b"zylophor", b"quillfeather", WORDS.encode())
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if any(word in path.read_bytes().lower() for word in wanted)]


def test_a_store_is_encrypted_while_a_daemon_runs_and_the_next_one_opens_it(sh: Shell, file: Path) -> None:
    sh.remember(SECRET)
    pid = sh.good("status")["pid"]
    assert sh.good("status")["encrypted"] is False
    done = sh.good("encrypt", "--passphrase-file", str(file))
    assert (done["encrypted"], done["source"], done["out_of_reach"]) == (True, "passphrase", [])
    assert not alive(pid)
    assert readable(sh.data) == []
    assert sh.good("recall", "lantern")["memories"][0]["content"] == SECRET
    assert sh.good("status")["encrypted"] is True
    about = {finding["about"]: finding["level"] for finding in sh.good("doctor")["findings"]}
    assert (about["encryption"], about["audit, indexes"]) == ("ok", "ok")
    sh.good("stop")
    assert readable(sh.data) == []
    assert WORDS not in (sh.data / "daemon.log").read_text()
    more = 4 + 2  # the last two: the heat of what was recalled, and the log of its use
    assert sh.good("decrypt") == {"encrypted": False, "source": None, "rows": done["rows"] + more, "out_of_reach": []}
    file.unlink()
    assert sh.good("recall", "lantern")["memories"][0]["content"] == SECRET


def test_a_daemon_without_the_key_says_what_to_do(sh: Shell, file: Path, tmp_path: Path) -> None:
    sh.good("encrypt", "--passphrase-file", str(file))
    sh.remember(SECRET)
    sh.good("stop")
    moved = file.rename(tmp_path / "moved")
    done = sh("recall", "lantern")
    assert done.code == 1
    assert f"{file} cannot be read (No such file or directory)" in done.err
    assert done.err.count("\n") == 1
    until(lambda: free(sh.data), "the daemon that could not open the store has ended", LONG_S)
    found = sh("recall", "lantern", "--json", MEMOS_KEY_FILE=str(moved))
    assert found.json["memories"][0]["content"] == SECRET


def test_a_new_passphrase_takes_the_place_of_the_old_one(sh: Shell, file: Path, tmp_path: Path) -> None:
    sh.good("encrypt", "--passphrase-file", str(file))
    sh.remember(SECRET)
    new = tmp_path / "new"
    new.write_text("another passphrase")
    new.chmod(0o600)
    done = sh("encrypt", "--change", "--passphrase-file", str(new), MEMOS_KEY_FILE=str(file))
    assert done.code == 0
    assert done.err == f"MEMOS_KEY_FILE still names {file}: unset it, or the store will not open\n"
    assert f"its key is in {new}" in done.out
    file.unlink()
    assert sh.good("recall", "lantern")["memories"][0]["content"] == SECRET


def test_what_cannot_be_encrypted_is_refused_in_one_line(sh: Shell, file: Path, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.write_text(WORDS)
    loose.chmod(0o644)
    for arguments, says in (
        (("encrypt", "--passphrase-file", str(loose)), f"chmod 600 '{loose}'"),
        (("encrypt", "--passphrase-file", str(tmp_path / "none")), "cannot be read"),
        (("encrypt", "--keyring"), "use a passphrase file instead"),
        (("encrypt", "--change", "--passphrase-file", str(file)), "is not encrypted"),
        (("decrypt",), "is not encrypted"),
    ):
        done = sh(*arguments, PYTHON_KEYRING_BACKEND="keyring.backends.fail.Keyring")
        assert done.code == 1
        assert says in done.err
        assert done.err.count("\n") == 1
    assert sh("encrypt").code == 2
    assert sh("encrypt", "--keyring", "--passphrase-file", str(file)).code == 2


def test_a_restored_backup_says_whether_the_store_is_encrypted_now(sh: Shell, file: Path, tmp_path: Path) -> None:
    sh.remember(SECRET)
    sh.good("backup", str(tmp_path / "plain.duckdb"))
    left = sh("encrypt", "--passphrase-file", str(file))
    assert f"not under this key, and left alone: {tmp_path / 'plain.duckdb'}" in left.out
    sh.good("backup", str(tmp_path / "sealed.duckdb"))
    done = sh("restore-backup", str(tmp_path / "plain.duckdb"))
    assert "the backup was not encrypted, so the store is not any more" in done.out
    assert sh.good("recall", "lantern")["memories"][0]["content"] == SECRET
    restored = sh("restore-backup", str(tmp_path / "sealed.duckdb"), MEMOS_KEY_FILE=str(file))
    assert "not encrypted" in restored.out.splitlines()[-1]
    assert sh.good("status")["running"] is False
    assert sh.good("recall", "lantern")["memories"][0]["content"] == SECRET
    assert sh.good("status")["encrypted"] is True


def test_the_key_goes_into_the_platforms_keyring(sh: Shell, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    ring = {"PYTHON_KEYRING_BACKEND": "tests.memos_mcp.keyring_in_a_file.Keyring", "MEMOS_TEST_KEYRING": str(kept)}
    assert sh("encrypt", "--keyring", "--json", **ring).json["source"] == "keyring"
    (name,) = json.loads(kept.read_text())
    done = sh("remember", SECRET, **ring)
    assert done.code == 0, done.err
    assert name == f"memos-mcp {sh.good('status')['store_id']}"
    sh.good("stop")
    assert readable(sh.data) == []
    kept.write_text("{}")
    done = sh("recall", "lantern", **ring)
    assert done.code == 1
    assert "the keyring has no key for this store" in done.err
