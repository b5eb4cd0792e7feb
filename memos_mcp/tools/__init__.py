"""The tools, in one table: the server lists and runs them, and so does the command line."""

from memos_mcp.tools.table import CORE, TOOLS, TOOLSETS, in_toolsets
from memos_mcp.tools.tool import Hints, Tool

__all__ = ["CORE", "TOOLS", "TOOLSETS", "Hints", "Tool", "in_toolsets"]
