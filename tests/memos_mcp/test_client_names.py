"""What a client calls itself goes to the audit log as one line of a bounded length."""

from __future__ import annotations

from pathlib import Path

import mcp_types as types
import pytest

from engine.memos import MemOS
from engine.operations import Caller, Progress, Remember, Remembered, silent
from engine.settings import NO_EMBEDDER, Settings
from memos_mcp.connection import MAX_CLIENT_CHARS, client_name
from tests.memos_mcp.serving import ERAS, Era, connected, remember


class NotesCallers(MemOS):
    """A real store that notes who asked."""

    clients: list[str]

    def remember(self, request: Remember, caller: Caller, progress: Progress = silent) -> Remembered:
        self.clients.append(caller.client)
        return super().remember(request, caller, progress)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Desk Assistant 2.1", "Desk Assistant 2.1"),
        (
            "line\nbreak\x1b[2J\u2028",
            "line\N{REPLACEMENT CHARACTER}break\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}",
        ),
        ("x" * 5_000, "x" * MAX_CLIENT_CHARS),
        ("", ""),
    ],
)
def test_a_name_is_one_line_of_bounded_length(given: str, kept: str) -> None:
    assert client_name(given) == kept


@pytest.mark.anyio
@pytest.mark.parametrize("era", ERAS)
async def test_the_server_hands_the_engine_no_more_of_a_name_than_that(tmp_path: Path, era: Era) -> None:
    with NotesCallers.open(Settings(data=tmp_path, embedder=NO_EMBEDDER)) as memos:
        memos.clients = []
        info = types.Implementation(name="long\n" * 1_000, version="1")
        async with connected(memos, era, client_info=info) as client:
            await remember(client, "The shed is locked.")
    assert memos.clients == [client_name("long\n" * 1_000)]
    assert len(memos.clients[0]) == MAX_CLIENT_CHARS
