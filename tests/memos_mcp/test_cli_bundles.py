"""Bundles, keys and shelves from a shell: real processes, real files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import until
from tests.memos_mcp.processes import free, owner
from tests.memos_mcp.shell import Shell, shell

SAID = "The orchard has forty trees."


@pytest.fixture(scope="module")
def sh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with shell(tmp_path_factory.mktemp("bundles") / "data") as opened:
        opened.remember(SAID, "--cube", "orchard", "--source", "https://example.org/trees", "--tag", "trees")
        opened.remember("The cider press is rented.", "--cube", "orchard", "--sensitivity", "secret")
        yield opened


@pytest.fixture
def bundle(sh: Shell, tmp_path: Path) -> Path:
    file = tmp_path / "orchard.memcube"
    sh.good("cube", "pack", "orchard", str(file))
    return file


def test_packing_twice_gives_the_same_bytes_and_keeps_what_is_there(sh: Shell, bundle: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.memcube"
    told = sh.good("cube", "pack", "orchard", str(again))
    assert again.read_bytes() == bundle.read_bytes()
    assert (told["memories"], told["bytes"]) == (2, again.stat().st_size)
    assert again.stat().st_mode & 0o077 == 0
    refused = sh("cube", "pack", "orchard", str(again))
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert "--replace" in refused.err
    less = sh.good("cube", "pack", "orchard", str(again), "--replace", "--redact", "secret", "--no-embeddings")
    assert (less["memories"], less["redacted"]) == (1, "secret")


def test_a_file_is_looked_at_without_a_daemon_or_a_store(sh: Shell, bundle: Path, tmp_path: Path) -> None:
    nobody = Shell(tmp_path / "nobody")
    found = nobody.good("cube", "inspect", str(bundle))
    assert (found["name"], found["memories"], found["signed_by"], found["encrypted"]) == ("orchard", 2, None, False)
    assert found["header"]["provenance"]["cube"] == "orchard"
    shown = nobody("cube", "inspect", str(bundle)).out
    assert "orchard" in shown
    assert "not checked: `memos-mcp cube verify` does that" in shown
    assert nobody.good("cube", "verify", str(bundle))["whole"] is True
    assert nobody.good("cube", "diff", str(bundle), str(bundle))["changed"] == []
    assert not nobody.data.exists() or free(nobody.data)
    assert not (nobody.data / "vault.duckdb").exists()


def test_one_flipped_bit_is_found_and_named(sh: Shell, bundle: Path) -> None:
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 1
    bundle.write_bytes(content)
    for command in (("verify",), ("install",)):
        done = sh("cube", *command, str(bundle), *(("--as", "broken") if command == ("install",) else ()))
        assert (done.code, done.err.count("\n")) == (1, 1)
        assert bundle.name in done.err
    assert "broken" not in sh("cube", "list").out


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04nonsense", b"hello"])
def test_what_is_no_bundle_is_refused_in_one_line(sh: Shell, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.memcube"
    file.write_bytes(content)
    for command in (("inspect", str(file)), ("verify", str(file)), ("unpack", str(file), str(tmp_path / "out"))):
        done = sh("cube", *command)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1), command
    assert not (tmp_path / "out").exists()


def test_unpacking_writes_plain_files_for_people(sh: Shell, bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    counts = sh.good("cube", "unpack", str(bundle), str(folder))
    assert counts["memories"] == 2
    texts = [path.read_text("utf-8") for path in sorted(folder.glob("memories/*/*.md"))]
    mine = next(text for text in texts if text.endswith(f"---\n\n{SAID}\n"))
    assert "source: https://example.org/trees" in mine
    assert json.loads((folder / "manifest.json").read_bytes())["cube"]["name"] == "orchard"
    for path in folder.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
    again = sh("cube", "unpack", str(bundle), str(folder))
    assert (again.code, again.err.count("\n")) == (1, 1)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")] == []


def test_a_cube_is_installed_upgraded_and_told_apart(sh: Shell, bundle: Path, tmp_path: Path) -> None:
    with shell(tmp_path / "other") as other:
        dry = other.good("cube", "install", str(bundle), "--dry-run")
        assert dry["memories"] == 2
        assert other.good("cube", "list")["cubes"] == []
        other.good("cube", "install", str(bundle), "--as", "trees")
        assert other.good("recall", "orchard forty trees")["memories"][0]["content"] == SAID
        taken = other("cube", "install", str(bundle), "--as", "trees")
        assert (taken.code, taken.err.count("\n")) == (1, 1)
        sh.remember("Ten more trees were planted.", "--cube", "orchard")
        newer = tmp_path / "newer.memcube"
        sh.good("cube", "pack", "orchard", str(newer))
        difference = other.good("cube", "diff", str(bundle), str(newer))
        assert (len(difference["added"]), difference["removed"]) == (1, [])
        upgraded = other.good("cube", "upgrade", str(newer), "--as", "trees")
        assert len(upgraded["diff"]["added"]) == 1
        assert other.good("cube", "show", "trees")["memories"] == 3


def test_what_nobody_signed_is_refused_where_that_is_asked_for(sh: Shell, bundle: Path, tmp_path: Path) -> None:
    with shell(tmp_path / "signer") as signer:
        key = signer.good("cube", "key", "create")["signing"]
        signer.remember("A signed note.", "--cube", "signed")
        signed = tmp_path / "signed.memcube"
        assert signer.good("cube", "pack", "signed", str(signed))["signed_by"] == key["fingerprint"]
        unsigned = signer("cube", "pack", "signed", str(tmp_path / "unsigned.memcube"), "--no-sign").out
        assert "not signed" in unsigned
        assert "key create" not in unsigned
    with shell(tmp_path / "careful") as careful:
        careful.good("cube", "key", "policy", "known")
        for file in (bundle, signed):
            refused = careful("cube", "install", str(file))
            assert (refused.code, refused.err.count("\n")) == (1, 1)
        assert key["fingerprint"] in refused.err
        careful.good("cube", "key", "trust", str(signed), "--name", "signer")
        done = careful.good("cube", "install", str(signed))
        assert (done["signed_by"], done["trusted"]) == (key["fingerprint"], True)


def test_a_passphrase_comes_from_a_file_or_a_prompt(sh: Shell, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("correct horse battery staple\n", "utf-8")
    words.chmod(0o600)
    file = tmp_path / "sealed.memcube"
    sh.good("cube", "pack", "orchard", str(file), "--passphrase-file", str(words))
    assert SAID.encode() not in file.read_bytes()
    closed = sh("cube", "verify", str(file))
    assert (closed.code, closed.err.count("\n")) == (1, 1)
    assert sh.good("cube", "inspect", str(file), "--passphrase-file", str(words))["encrypted"] is True
    other = tmp_path / "other.txt"
    other.write_text("something else\n", "utf-8")
    other.chmod(0o600)
    assert sh("cube", "install", str(file), "--as", "x", "--passphrase-file", str(other)).code == 1
    sh.good("cube", "install", str(file), "--as", "opened", "--passphrase-file", str(words))
    assert sh("cube", "pack", "orchard", str(tmp_path / "y.memcube"), "--encrypt").code == 1  # nobody to ask
    mine = tmp_path / "y.memcube"
    asked = (("passphrase: ", "open sesame"), ("again: ", "open sesame"))
    typed = sh.at_a_terminal("cube", "pack", "orchard", str(mine), "--encrypt", secrets=asked)
    assert typed.code == 0, typed.err
    opened = sh.at_a_terminal("cube", "verify", str(mine), secrets=(("passphrase of y.memcube: ", "open sesame"),))
    assert opened.code == 0, opened.err
    assert "open sesame" not in typed.out + typed.err + opened.out + opened.err
    differing = (("passphrase: ", "open sesame"), ("again: ", "open barley"))
    wrong = sh.at_a_terminal("cube", "pack", "orchard", str(tmp_path / "z.memcube"), "--encrypt", secrets=differing)
    assert wrong.code == 1
    assert not (tmp_path / "z.memcube").exists()


def test_a_passphrase_that_is_not_given_is_one_line(sh: Shell, tmp_path: Path) -> None:
    nothing = (("passphrase: ", "\x04"),)  # the end of input, as Ctrl-D says it
    done = sh.at_a_terminal("cube", "pack", "orchard", str(tmp_path / "x.memcube"), "--encrypt", secrets=nothing)
    assert done.code == 1
    assert "memos-mcp: no passphrase was given: nothing was done" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "x.memcube").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_typed_passphrase_is_gone_when_the_command_is_ended(sh: Shell, tmp_path: Path, number: int) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    daemon = owner(sh.data)

    def end(process: subprocess.Popen[str]) -> None:
        until(lambda: list(kept.glob("*/passphrase")), "the passphrase on its way to the daemon")
        process.send_signal(number)

    os.kill(daemon, signal.SIGSTOP)  # it has not answered when the command is ended
    try:
        asked = (("passphrase: ", "open sesame"), ("again: ", "open sesame"))
        words = ("cube", "pack", "orchard", str(tmp_path / "x.memcube"), "--encrypt")
        done = sh.at_a_terminal(*words, secrets=asked, then=end, XDG_RUNTIME_DIR="", TMPDIR=str(kept))
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert done.code == 128 + number
    assert list(kept.iterdir()) == []


def test_a_bundle_is_packed_into_a_file_that_is_called_one(sh: Shell, tmp_path: Path) -> None:
    file = tmp_path / "notes.md"
    file.write_text("mine", "utf-8")
    refused = sh("cube", "pack", "orchard", str(file), "--replace")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "does not end in .memcube" in refused.err
    assert file.read_text("utf-8") == "mine"


def test_a_file_is_published_as_it_is_or_not_at_all(sh: Shell, bundle: Path, tmp_path: Path) -> None:
    shelf, words, sealed = tmp_path / "shelf", tmp_path / "words.txt", tmp_path / "sealed.memcube"
    shelf.mkdir()
    words.write_text("open sesame\n", "utf-8")
    words.chmod(0o600)
    unheeded = (
        *(("--redact", "personal"), ("--recipient", "age1x"), ("--passphrase-file", str(words)), ("--encrypt",)),
        *(("--no-history",), ("--no-embeddings",), ("--no-sign",), ("--snapshot", "x")),
    )
    for options in unheeded:
        refused = sh("cube", "publish", str(bundle), str(shelf), *options)
        assert (refused.code, refused.err.count("\n")) == (2, 1), options
        assert f"a file is published as it is: leave out {options[0]}," in refused.err
    assert list(shelf.iterdir()) == []
    sh.good("cube", "pack", "orchard", str(sealed), "--passphrase-file", str(words))
    sh.good("cube", "publish", str(sealed), str(shelf), "--passphrase-file", str(words))  # which opens it
    (entry,) = sh.good("cube", "shelf", "list", str(shelf))["bundles"]
    assert entry["encrypted"] is True


def test_what_is_encrypted_to_a_store_s_own_key_needs_no_passphrase(sh: Shell, tmp_path: Path) -> None:
    with shell(tmp_path / "receiver") as receiver:
        recipient = receiver.good("cube", "key", "create")["recipient"]
        file = tmp_path / "for-you.memcube"
        sh.good("cube", "pack", "orchard", str(file), "--recipient", recipient)
        assert sh("cube", "inspect", str(file)).code == 1
        assert receiver.good("cube", "inspect", str(file))["encrypted"] is True
        receiver.good("cube", "install", str(file))
        assert receiver.good("cube", "list")["cubes"][0]["name"] == "orchard"


def test_a_shelf_in_a_folder_is_filled_searched_and_installed_from(sh: Shell, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    told = sh.good("cube", "publish", "orchard", str(shelf))
    assert told["redacted"] == "secret"
    (entry,) = sh.good("cube", "shelf", "list", str(shelf))["bundles"]
    assert (entry["name"], entry["digest"]) == ("orchard", told["digest"])
    assert sh.good("cube", "shelf", "search", str(shelf), "nothing of the kind")["bundles"] == []
    assert len(sh.good("cube", "shelf", "search", str(shelf), "orchard")["bundles"]) == 1
    sh.good("cube", "install", f"{shelf}#orchard", "--as", "from the shelf")
    assert "from the shelf" in sh("cube", "list").out
    for wrong in (f"{shelf}#nothing", "https://127.0.0.1:1/x.memcube", "ftp://example.org#x"):
        refused = sh("cube", "install", wrong)
        assert (refused.code, refused.err.count("\n")) == (1, 1), wrong


def test_paths_are_those_of_the_shell_and_not_of_the_daemon(sh: Shell, tmp_path: Path) -> None:
    import sys

    from tests.memos_mcp.processes import environment

    done = subprocess.run(
        [sys.executable, "-m", "memos_mcp", "cube", "pack", "orchard", "here.memcube"],
        cwd=tmp_path,
        env=environment(sh.data),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here.memcube").is_file()
