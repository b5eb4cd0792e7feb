"""One command of the command line: its words, and where the function lies that does it.

Knows no daemon, and imports the module of a command only when that is asked for.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

Run = Callable[[Any, argparse.Namespace], int]


@dataclass(frozen=True, slots=True)
class Command:
    """`does` names the function as `module:function` below this package; a command with parts does nothing itself."""

    name: str
    summary: str
    does: str = ""
    options: Callable[[argparse.ArgumentParser], None] | None = None
    parts: tuple[Command, ...] = ()

    def load(self) -> Run:
        module, function = self.does.split(":")
        return cast(Run, getattr(importlib.import_module(f"memos_mcp.commands.{module}"), function))
