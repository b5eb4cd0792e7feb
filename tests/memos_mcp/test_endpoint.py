"""Who may own a data folder, and where it is found."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path

import pytest

from engine.errors import Busy, Unavailable
from memos_mcp import dial, endpoint
from memos_mcp.endpoint import Endpoint

HELLO = dial.Hello("control", "s")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_one_process_at_a_time_owns_a_folder_and_each_owner_counts_one_epoch_more(tmp_path: Path) -> None:
    first = endpoint.take_ownership(tmp_path)
    assert first is not None
    assert first[1] == 1
    assert endpoint.take_ownership(tmp_path) is None
    assert endpoint.owned(tmp_path)
    assert endpoint.owner_pid(tmp_path) == os.getpid()
    first[0].release()
    assert not endpoint.owned(tmp_path)
    assert (tmp_path / "owner.lock").exists()
    second = endpoint.take_ownership(tmp_path)
    assert second is not None
    assert second[1] == 2
    second[0].release()


def test_a_lock_file_with_torn_text_still_elects(tmp_path: Path) -> None:
    (tmp_path / "owner.lock").write_bytes(b'{"pid": 12')
    won = endpoint.take_ownership(tmp_path)
    assert won is not None
    assert won[1] == 1
    won[0].release()


def test_what_is_published_is_private_and_comes_back_whole(tmp_path: Path) -> None:
    place = Endpoint(("unix", "/x/y"), "secret", 12, 3, "1.2.3", foreground=True)
    endpoint.publish(tmp_path, place)
    endpoint.publish(tmp_path, place)
    assert mode(tmp_path / "endpoint.json") == 0o600
    assert endpoint.read_endpoint(tmp_path) == place
    assert "secret" not in repr(place)
    endpoint.retract(tmp_path)
    assert endpoint.read_endpoint(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"address": 5}', json.dumps({"address": ["unix", "/x"], "pid": "x"})])
def test_a_damaged_endpoint_file_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "endpoint.json").write_text(text)
    assert endpoint.read_endpoint(tmp_path) is None


def test_the_data_folder_is_made_private(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    endpoint.prepare_folder(folder)
    assert mode(folder) == 0o700
    folder.chmod(0o755)
    endpoint.prepare_folder(folder)
    assert mode(folder) == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="--data"):
        endpoint.prepare_folder(tmp_path / "file")


def test_a_listening_socket_takes_the_place_of_one_that_a_dead_owner_left(tmp_path: Path) -> None:
    dead, address = endpoint.listen(tmp_path, tcp=False)
    dead.close()
    with pytest.raises(OSError, match="refused"):
        endpoint.call(address, 1.0)
    server, again = endpoint.listen(tmp_path, tcp=False)
    with server:
        assert again == address
        assert mode(Path(str(address[1]))) == 0o600
        endpoint.call(address, 1.0).close()


def test_a_path_too_long_for_a_socket_leads_to_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data = tmp_path / ("long" * 30)
    data.mkdir()
    server, address = endpoint.listen(data, tcp=False)
    with server:
        path = Path(str(address[1]))
        assert path.parent.parent == tmp_path
        assert mode(path.parent) == 0o700
        endpoint.call(address, 1.0).close()
        path.parent.chmod(0o755)
        with pytest.raises(Unavailable, match="not private"):
            endpoint.listen(data, tcp=False)


def test_loopback_tcp_serves_where_there_are_no_unix_sockets(tmp_path: Path) -> None:
    server, address = endpoint.listen(tmp_path, tcp=True)
    with server:
        assert address[:2] == ("tcp", "127.0.0.1")
        endpoint.call(address, 1.0).close()


def test_an_owner_that_says_nothing_is_named_after_a_bounded_time_and_left_alone(tmp_path: Path) -> None:
    server, address = endpoint.listen(tmp_path, tcp=False)  # listens, and never answers
    with server:
        endpoint.publish(tmp_path, Endpoint(address, "t", 4711, 1, "0.1.0"))
        with pytest.raises(Busy, match="process 4711"):
            dial.connect(tmp_path, HELLO, patience_s=0.2)


def test_an_owner_that_publishes_nothing_is_named_too(tmp_path: Path) -> None:
    won = endpoint.take_ownership(tmp_path)
    assert won is not None
    with pytest.raises(Busy, match=f"process {os.getpid()} owns"):
        dial.connect(tmp_path, HELLO, patience_s=0.2)
    won[0].release()


def test_nothing_is_started_for_those_who_only_ask(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no daemon runs"):
        dial.connect(tmp_path / "absent", HELLO, start=False)
    assert not (tmp_path / "absent").exists()
