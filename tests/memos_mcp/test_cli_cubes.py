"""Cubes, their moments, mounts, governance and the audit log from a shell: real processes on a real store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.conftest import until
from tests.memos_mcp.shell import Shell, shell


@pytest.fixture(scope="module")
def sh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with shell(tmp_path_factory.mktemp("cubes") / "data") as opened:
        yield opened


def found(sh: Shell, query: str, cube: str) -> list[str]:
    return [memory["content"] for memory in sh.good("recall", query, "--cube", cube)["memories"]]


def test_a_cube_is_made_changed_shown_and_deleted(sh: Shell) -> None:
    made = sh.good("cube", "create", "garden", "--description", "Beds and seeds", "--keep-versions", "5")
    assert made["created"] is True
    assert made["cube"]["policy"]["keep_versions"] == 5
    assert "already" in sh("cube", "create", "garden").err
    assert "cube create" in sh("cube", "set", "meadow", "--licence", "x").err
    assert sh("cube", "set", "garden").code == 2
    changed = sh.good("cube", "set", "garden", "--licence", "CC0-1.0", "--keep-versions", "0", "--read", "shared")
    assert (changed["cube"]["licence"], changed["cube"]["policy"]["keep_versions"]) == ("CC0-1.0", None)
    assert changed["cube"]["description"] == "Beds and seeds"
    versions = sh.good("cube", "history", "garden")["versions"]
    assert [row["version"] for row in versions] == [1, 2]
    assert "garden" in sh("cube", "list").out
    refused = sh("cube", "delete", "garden")
    assert refused.code == 1
    assert "--yes" in refused.err
    assert sh.at_a_terminal("cube", "delete", "garden", types="n\n").code == 1
    assert sh.good("cube", "delete", "garden", "--yes") == {"deleted": "garden", "memories": 0}
    assert sh("cube", "show", "garden").code == 1


def test_a_cube_is_shared_and_that_taken_back(sh: Shell) -> None:
    sh.good("cube", "create", "recipes")
    shared = sh.good("cube", "share", "recipes", "--principal", "kitchen", "--action", "read", "--action", "write")
    assert shared["cube"]["policy"]["grants"] == [{"principal": "kitchen", "actions": ["read", "write"]}]
    assert "kitchen may" in sh("cube", "show", "recipes").out
    taken = sh.good("cube", "share", "recipes", "--revoke", "kitchen", "--read", "public")
    assert taken["cube"]["policy"]["grants"] == []
    assert taken["cube"]["policy"]["read"] == "public"
    for wrong in ((), ("--action", "read"), ("--revoke", "a", "--principal", "b")):
        assert sh("cube", "share", "recipes", *wrong).code == 2, wrong


def test_a_cube_is_compared_with_a_moment_and_rolled_back_to_it(sh: Shell) -> None:
    kept = sh.remember("The bridge is closed on Sundays.", "--cube", "town")
    named = sh.good("cube", "snapshot", "town", "last week", "--reason", "before the festival")
    assert named["made"]["reason"] == "before the festival"
    later = sh.remember("The market moves to the square.", "--cube", "town")
    assert sh.good("cube", "diff", "town@last week", "town")["added"] == [later]
    assert later in sh("cube", "diff", "town@last week", "town").out
    preview = sh.good("cube", "rollback", "town", "--to", "last week", "--dry-run")
    assert (preview["done"], preview["archived"]) == (False, [later])
    unsure = sh("cube", "rollback", "town", "--to", "last week")
    assert unsure.code == 1
    assert "nothing was changed: say --yes" in unsure.err
    done = sh.good("cube", "rollback", "town", "--to", "last week", "--yes")
    assert done["done"] is True
    assert found(sh, "market bridge", "town") == ["The bridge is closed on Sundays."]
    assert {row["name"] for row in sh.good("cube", "snapshots", "town")["snapshots"]} == {"last week", done["before"]}
    asked = sh.at_a_terminal("cube", "rollback", "town", "--to", done["before"], types="y\n")
    assert asked.code == 0, asked.err
    assert "[y/N]" in asked.err
    assert len(found(sh, "market bridge", "town")) == 2
    dropped = sh.good("cube", "snapshot", "town", "last week", "--drop")
    assert dropped["dropped"] == "last week"
    assert len(sh.good("history", kept)["versions"]) >= 1


@pytest.mark.parametrize("arguments", [("town@", "town"), ("town", "village"), ("a.memcube", "town"), ("@x", "@y")])
def test_moments_that_cannot_be_compared_are_wrong_usage(sh: Shell, arguments: tuple[str, str]) -> None:
    assert sh("cube", "diff", *arguments).code == 2


def test_cubes_are_fused_from_a_shell(sh: Shell) -> None:
    sh.remember("The well is twelve metres deep.", "--cube", "farm")
    sh.remember("The barn roof leaks.", "--cube", "house")
    assert sh("fuse", "--cubes", "farm", "house").code == 2
    dry = sh.good("fuse", "--cubes", "farm", "house", "--into", "estate", "--dry-run")
    assert (dry["fused"], dry["memories"]) == (None, 2)
    done = sh.good("fuse", "--cubes", "farm", "house", "--into", "estate")
    assert done["fused"] == {"cube": "estate", "version": 1}
    assert len(done["before"]) == 3
    assert len(found(sh, "well barn", "estate")) == 2


def test_memories_are_governed(sh: Shell) -> None:
    kept = sh.remember("The deed is in the safe.", "--sensitivity", "personal", "--cube", "papers")
    (row,) = sh.good("govern", kept, "--pin", "--priority", "2", "--tag", "law")["memories"]
    assert (row["pinned"], row["priority"], row["tags"], row["sensitivity"]) == (True, 2, ["law"], "personal")
    (row,) = sh.good("govern", kept, "--unpin", "--freeze", "--no-tags")["memories"]
    assert (row["pinned"], row["frozen"], row["tags"]) == (False, True, [])
    assert "frozen" in sh("forget", kept).err
    assert sh("govern", kept).code == 2
    assert sh("govern", kept, "--pin", "--unpin").code == 2
    assert sh("govern", kept, "--tag", "x", "--no-tags").code == 2
    assert sh("govern", kept, "--unfreeze").out.splitlines()[1].split()[0] == kept


def test_a_folder_of_notes_is_mounted_and_followed(sh: Shell, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "roof.md").write_text("The roof was tarred in 2019.", "utf-8")
    mounted = sh.good("mount", str(notes), "--as", "diary")
    assert (mounted["cube"], mounted["kind"]) == ("diary", "notes")
    until(lambda: found(sh, "roof tarred", "diary"), "the note to be recalled")
    assert "read-only" in sh("remember", "x", "--cube", "diary").err
    (row,) = sh.good("mounts")["mounts"]
    assert row["path"] == str(notes)
    assert sh.good("unmount", "diary") == {"unmounted": "diary"}
    assert sh.good("mounts") == {"mounts": []}
    assert (notes / "roof.md").read_text("utf-8") == "The roof was tarred in 2019."
    assert "nothing at" in sh("mount", str(tmp_path / "nowhere")).err


def test_a_folder_of_bundles_is_unmounted_by_its_path(
    sh: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    (folder / "other.memcube").write_text("no bundle at all", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert "without a name" in sh("mount", "drop", "--as", "mine").err
    assert sh("mount", "drop").out == f"the bundles in {folder} are shown as read-only cubes: ready\n"
    listed = sh("mounts")
    assert listed.out.splitlines()[1].split()[:2] == [str(folder), "drop"]
    assert f"{folder}: other.memcube: " in listed.err
    assert sh("unmount", "").code != 0
    assert sh("unmount", "drop").out == f"{folder} is shown no more; its files are as they were\n"
    sh.good("mount", "drop")
    assert sh.good("unmount", "./drop/") == {"unmounted": str(folder)}
    assert "nothing is mounted at" in sh("unmount", "drop").err
    assert sh.good("mounts") == {"mounts": []}


def test_the_audit_log_is_shown_and_verified_in_the_store_and_in_copies(sh: Shell, tmp_path: Path) -> None:
    kept = sh.remember("The lock was changed.", "--cube", "log")
    sh.good("forget", kept, "--reason", "it rusted")
    entries = sh.good("audit", "show", "--cube", "log")["entries"]
    assert [entry["action"] for entry in entries][-2:] == ["remember", "archive"]
    assert "it rusted" in sh("audit", "show", "--cube", "log").out
    after = sh.good("audit", "show", "--cube", "log", "--since", str(entries[-2]["seq"]))["entries"]
    assert [entry["seq"] for entry in after] == [entries[-1]["seq"]]
    assert sh.good("audit", "show", "--cube", "log", "--limit", "2")["entries"] == entries[-2:]
    assert sh.good("audit", "show", "--cube", "log", "--since", "0", "--limit", "1")["entries"] == entries[:1]
    assert sh.good("audit", "verify") == {"problems": []}
    copy = tmp_path / "copy.duckdb"
    sh.good("backup", str(copy))
    before = copy.read_bytes()
    assert sh.good("audit", "verify", str(copy)) == {"problems": []}
    assert copy.read_bytes() == before
    tampered = tmp_path / "tampered.duckdb"
    shutil.copy(copy, tampered)
    with duckdb.connect(str(tampered)) as connection:
        connection.execute("UPDATE audit SET actor = 'nobody' WHERE seq = 2")
    done = sh("audit", "verify", str(tampered), "--json")
    assert done.code == 1
    (problem,) = json.loads(done.out)["problems"]
    assert "row 2" in problem
    for wrong in (tmp_path / "nothing", Path(__file__)):
        refused = sh("audit", "verify", str(wrong))
        assert (refused.code, refused.err.count("\n")) == (1, 1)


def test_keys_are_made_and_others_trusted(sh: Shell, tmp_path: Path) -> None:
    assert sh.good("cube", "key", "show")["signing"] is None
    own = sh.good("cube", "key", "create")
    assert own["recipient"].startswith("age1")
    again = sh("cube", "key", "create")
    assert (again.code, again.err.count("\n")) == (1, 1)
    key = sh.good("cube", "key", "show")["signing"]
    assert key == own["signing"]
    file = tmp_path / "friend.txt"
    file.write_text(key["key"] + "\n", "utf-8")
    (trusted,) = sh.good("cube", "key", "trust", str(file), "--name", "friend")["trusted"]
    assert (trusted["name"], trusted["fingerprint"]) == ("friend", key["fingerprint"])
    assert "friend" in sh("cube", "key", "show").out
    assert sh.good("cube", "key", "policy", "known")["policy"] == "known"
    assert sh("cube", "key", "policy").out.startswith("known: ")
    assert sh.good("cube", "key", "untrust", "friend")["trusted"] == []
    assert sh("cube", "key", "untrust", "friend").code == 1
    sh.good("cube", "key", "policy", "any")
    for path in (sh.data / "keys").iterdir():
        assert path.stat().st_mode & 0o077 == 0
    secret = (sh.data / "keys" / "signing.pem").read_text("utf-8").splitlines()[1]
    shown: Any = sh("cube", "key", "show", "-v")
    assert secret not in shown.out + shown.err
