"""What the examples share: a data folder, the server's parameters, and a tidy end."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters

COMMAND = str(Path(sys.executable).with_name("memos-mcp"))


def server(data: Path) -> StdioServerParameters:
    """What an assistant's configuration says, with a data folder of our own and no downloads."""
    return StdioServerParameters(command=COMMAND, args=["--offline", "--data", str(data)])


@contextlib.contextmanager
def data_folder(chosen: Path | None) -> Iterator[Path]:
    """The chosen folder, or a fresh one that is gone at the end together with the daemon that served it."""
    if chosen is not None:
        yield chosen.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="memos-example-") as name:
        try:
            yield Path(name)
        finally:
            subprocess.run([COMMAND, "stop", "--data", name], check=True, stdout=subprocess.DEVNULL)


def folder_option(description: str) -> Path | None:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, help="use this data folder, not a fresh one")
    chosen: Path | None = parser.parse_args().data
    return chosen


async def use(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool; its structured result.

    Raises:
        RuntimeError: the tool refused; the message is what it said.
    """
    result = await client.call_tool(tool, arguments)
    if result.is_error:
        raise RuntimeError(" ".join(getattr(block, "text", "") for block in result.content))
    return dict(result.structured_content or {})
