"""Which tools there are, and in which toolsets they come."""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import Invalid
from memos_mcp.tools.ask import ASK
from memos_mcp.tools.create_cube import CREATE_CUBE
from memos_mcp.tools.forget import FORGET
from memos_mcp.tools.fuse import FUSE
from memos_mcp.tools.govern import GOVERN
from memos_mcp.tools.history import HISTORY
from memos_mcp.tools.install_cube import INSTALL_CUBE
from memos_mcp.tools.move import MOVE
from memos_mcp.tools.pack_cube import PACK_CUBE
from memos_mcp.tools.recall import RECALL
from memos_mcp.tools.remember import REMEMBER
from memos_mcp.tools.restore import RESTORE
from memos_mcp.tools.share_cube import SHARE_CUBE
from memos_mcp.tools.snapshot import SNAPSHOT
from memos_mcp.tools.tool import Tool

CORE = "core"
TOOLSETS: dict[str, tuple[Tool, ...]] = {
    CORE: (REMEMBER, RECALL, FORGET, FUSE),
    "lifecycle": (HISTORY, RESTORE, SNAPSHOT, GOVERN, MOVE),
    "cubes": (CREATE_CUBE, SHARE_CUBE, PACK_CUBE, INSTALL_CUBE),
    "local": (ASK,),
}
TOOLS: dict[str, Tool] = {tool.name: tool for tools in TOOLSETS.values() for tool in tools}


def in_toolsets(names: Sequence[str]) -> dict[str, Tool]:
    """The tools of these toolsets, in the table's order.

    Raises:
        Invalid: a toolset of that name does not exist.
    """
    for name in names:
        if name not in TOOLSETS:
            raise Invalid(f"there is no toolset {name!r}: use one or more of {', '.join(TOOLSETS)}")
    return {tool.name: tool for name in TOOLSETS if name in names for tool in TOOLSETS[name]}
