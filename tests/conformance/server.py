"""The server that conformance is measured on: the real one over HTTP, on a store of its own, plus the suite's fixtures.

    python -m tests.conformance.server FOLDER

prints the port that it listens on and serves until its stdin ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import anyio.to_thread

from engine.memos import MemOS
from engine.settings import NO_EMBEDDER, Settings
from memos_mcp.auth import TokenFile
from memos_mcp.server import build_server
from memos_mcp.transports import HttpSettings, http_app, http_server
from memos_mcp.version import VERSION
from tests.conformance.fixtures import add_fixtures


async def serve(memos: MemOS, folder: Path) -> None:
    server = build_server(memos, version=VERSION)
    add_fixtures(server)
    settings = HttpSettings(port=0)
    web = http_server(http_app(server, version=VERSION, tokens=TokenFile(folder), settings=settings), settings)

    async def tell() -> None:
        while not web.started:
            await anyio.sleep(0.01)
        print(web.servers[0].sockets[0].getsockname()[1], flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        web.should_exit = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tell)
        await web.serve()
        tasks.cancel_scope.cancel()


def main() -> None:
    folder = Path(sys.argv[1])
    with MemOS.open(Settings(data=folder, embedder=NO_EMBEDDER)) as memos:
        anyio.run(serve, memos, folder)


if __name__ == "__main__":
    main()
