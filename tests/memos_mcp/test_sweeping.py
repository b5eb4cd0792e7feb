"""A sweep that fails in a way that nobody foresaw costs neither the daemon nor an orderly end."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import duckdb
import pytest

from engine.memos import MemOS
from engine.operations import Caller, Recall, Remember
from engine.settings import NO_EMBEDDER, Settings
from memos_mcp.daemon import _close
from memos_mcp.host import Opened, sweep
from memos_mcp.server import build_server
from tests.memos_mcp.serving import VERSION, store

FAILURES = [OSError(errno.ENOSPC, "SECRET"), duckdb.IOException("SECRET"), RuntimeError("SECRET")]


class OnAFullDisk(MemOS):
    """A real store whose sweep meets a failure of the machine."""

    failure: Exception

    def sweep(self) -> None:
        raise self.failure


def opened_on_a_full_disk(folder: Path, failure: Exception) -> OnAFullDisk:
    memos = OnAFullDisk.open(Settings(data=folder, embedder=NO_EMBEDDER))
    memos.failure = failure
    return memos


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_sweep_that_fails_is_logged_by_its_type_and_work_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    with opened_on_a_full_disk(tmp_path, failure) as memos, caplog.at_level(logging.INFO):
        sweep(memos)
        memos.remember(Remember(content="The ferry leaves at seven."), Caller())
    assert type(failure).__name__ in caplog.text
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_store_is_closed_in_order_although_its_last_sweep_fails(tmp_path: Path, failure: Exception) -> None:
    memos = opened_on_a_full_disk(tmp_path, failure)
    memos.remember(Remember(content="The ferry leaves at seven."), Caller())
    server = build_server(memos, version=VERSION)
    _close(Opened(memos, server, lambda toolsets: server))
    with store(tmp_path) as again:  # Busy, were it still open
        assert again.recall(Recall(query="When does the ferry leave?"), Caller()).memories
