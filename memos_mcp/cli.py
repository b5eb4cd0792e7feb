"""`memos-mcp`: the stdio bridge when an assistant starts it, the command line when a person does.

An assistant starts it without a command and with a pipe for standard input, several times a day and several at once:
on that way nothing is imported but the standard library and anyio. Everything else is imported when it is asked for.
What must stay true: whatever goes wrong, the exit code and one line on standard error say so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

FAILED, USAGE = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Before numpy is loaded anywhere. A product of one query with a matrix takes half a millisecond on one thread; on
    # several, OpenBLAS keeps them spinning between calls, at the cost of the model that runs beside it: measured on a
    # busy machine with 10,000 memories, a recall took 20 to 40 ms instead of 9.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if arguments[:1] == ["daemon"]:
        from memos_mcp.daemon import main as daemon

        return daemon(arguments[1:])
    if not arguments and _piped():
        return _bridge(None, None)
    from memos_mcp.commands.arguments import parser

    words = parser()
    options = words.parse_args(arguments)
    _tell_the_daemon(options)
    if options.command is None:
        if _piped():
            return _bridge(getattr(options, "data", None), getattr(options, "toolsets", None))
        words.print_help()
        return 0
    return _command(options, words)


def _piped() -> bool:
    return sys.stdin is not None and not sys.stdin.isatty()


def _bridge(data: Path | None, toolsets: str | None) -> int:
    from memos_mcp.bridge import main as bridge

    return bridge(data, toolsets)


def _tell_the_daemon(options: argparse.Namespace) -> None:
    """A daemon that is started from here takes its settings from the environment, as any other does."""
    if getattr(options, "embedder", None):
        os.environ["MEMOS_EMBEDDER"] = options.embedder
    if getattr(options, "offline", False):
        os.environ["MEMOS_OFFLINE"] = "1"


def _command(options: argparse.Namespace, words: argparse.ArgumentParser) -> int:
    import traceback

    from engine.errors import MemosError
    from engine.settings import environment_settings
    from memos_mcp.commands.session import Failure, Session, Usage
    from memos_mcp.terminal import Screen

    verbose = getattr(options, "verbose", False)
    screen = Screen(sys.stdout, sys.stderr, as_json=getattr(options, "json", False), verbose=verbose)
    session = None
    try:
        session = Session(environment_settings(data=getattr(options, "data", None)), screen)
        code: int = options.does.load()(session, options)
        sys.stdout.flush()
        return code
    except Usage as error:
        screen.remark(f"memos-mcp: {error}; see memos-mcp {options.command} --help")
        return USAGE
    except (Failure, MemosError) as error:
        if verbose:
            traceback.print_exc()
        screen.remark(f"memos-mcp: {error}")
        return FAILED
    except KeyboardInterrupt:
        screen.remark("memos-mcp: interrupted")
        return FAILED
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # whoever read the output has gone; nothing more can be said there
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        screen.remark(f"memos-mcp: {error.filename or 'output'}: {error.strerror}")
        return FAILED
    finally:
        if session is not None:
            session.close()


if __name__ == "__main__":
    sys.exit(main())
