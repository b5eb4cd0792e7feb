"""The words of the command line: every command, its options, and the function that does it.

Knows no daemon and imports none of the commands: their modules are named here and loaded when asked for, so that
`--help` and a mistyped option answer at once. What must stay true: a global option means the same before and after
the command.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from memos_mcp.commands.command import Command
from memos_mcp.commands.cube_arguments import AUDIT, CUBE, GOVERN, MOUNTING, RECEIPT, SENSITIVITIES
from memos_mcp.commands.model_arguments import CHAT
from memos_mcp.commands.scheduler_arguments import SCHEDULER
from memos_mcp.commands.tier_arguments import TIER
from memos_mcp.version import VERSION

KINDS = ("fact", "preference", "event", "procedure", "document", "message")
AUTO = "auto"
IMPORTED = (
    "chatgpt",
    "claude",
    "openmemory",
    "mcp-memory-service",
    "mem0",
    "server-memory",
    "basic-memory",
    "jsonl",
    "json",
    "csv",
    "markdown",
)
EXPORTED = ("jsonl", "markdown", "server-memory")

DESCRIPTION = """\
One private, durable memory that every assistant on this machine shares.

Without a command and with standard input a pipe, memos-mcp is the MCP server that assistants start: put it into
their configuration. The commands below use the same memory from a shell."""

EPILOGUE = """\
The data folder is --data, or MEMOS_DATA, or the platform's folder for user data.
Exit codes: 0 done, 1 refused or failed (one line on standard error says why), 2 wrong usage."""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="memos-mcp",
        description=DESCRIPTION,
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _global_options(top)
    _toolsets(top)
    top.add_argument("--version", action="version", version=f"memos-mcp {VERSION}")
    _add_commands(top, COMMANDS, "command")
    return top


def _add_commands(target: argparse.ArgumentParser, commands: tuple[Command, ...], name: str) -> None:
    subparsers = target.add_subparsers(dest=name, metavar="COMMAND", title="commands", required=name != "command")
    for command in commands:
        sub = subparsers.add_parser(
            command.name, help=command.summary, description=_sentence(command.summary), allow_abbrev=False
        )
        if command.options is not None:
            command.options(sub)
        _global_options(sub)
        if command.parts:
            _add_commands(sub, command.parts, f"{command.name}_command")
        else:
            sub.set_defaults(does=command)


def _sentence(summary: str) -> str:
    return f"{summary[:1].upper()}{summary[1:]}."


def _global_options(target: argparse.ArgumentParser) -> None:
    """Absent means absent (SUPPRESS): a default here would undo what was said on the other side of the command."""
    group = target.add_argument_group("options of every command")
    group.add_argument("--data", type=_folder, metavar="DIR", default=argparse.SUPPRESS, help="the data folder")
    group.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print results as JSON")
    group.add_argument(
        "-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="say more on standard error"
    )
    group.add_argument(
        "--offline", action="store_true", default=argparse.SUPPRESS, help="never download anything, whatever is missing"
    )
    group.add_argument(
        "--embedder",
        metavar="NAME",
        default=argparse.SUPPRESS,
        help="the embedding model when this starts the daemon: a Hugging Face name, a folder, or none",
    )


def _toolsets(target: argparse.ArgumentParser) -> None:
    target.add_argument(
        "--toolsets",
        metavar="NAMES",
        default=argparse.SUPPRESS,
        help="which tools assistants get: core (default), lifecycle, cubes, local, with commas; or MEMOS_TOOLSETS",
    )


# --- the four tools -----------------------------------------------------------------------------------------------


def _remember(p: argparse.ArgumentParser) -> None:
    p.add_argument("content", nargs="?", metavar="TEXT", help="what to keep; - reads standard input")
    p.add_argument(
        "--messages", metavar="FILE", help="a JSON array of {role, content, name?, at?}; - reads it from standard input"
    )
    p.add_argument("--cube", help="where to keep it (default: default)")
    p.add_argument("--kind", choices=KINDS, help="classified when absent")
    p.add_argument("--tag", "--tags", dest="tags", action="append", metavar="TAG", help="may be repeated")
    p.add_argument("--occurred-at", metavar="WHEN", help="when it happened: an ISO date or datetime")
    p.add_argument("--expires-in-days", type=float, metavar="DAYS")
    p.add_argument("--source", help="where it comes from: a URL, a file, a conversation")
    p.add_argument("--sensitivity", choices=SENSITIVITIES, help="who may see it (default normal)")
    p.add_argument(
        "--facts", choices=("later", "wait", "none"), help="of --messages, where MEMOS_READER is set (default later)"
    )
    p.add_argument("--supersedes", action="append", metavar="ID", help="a memory that this replaces; may be repeated")


def _recall(p: argparse.ArgumentParser) -> None:
    p.add_argument("query", metavar="QUERY")
    p.add_argument(
        "--cube", "--cubes", dest="cubes", action="append", metavar="CUBE", help="only this cube; may be repeated"
    )
    p.add_argument("--limit", type=int, metavar="N", help="at most this many memories (default 8)")
    p.add_argument("--max-tokens", type=int, metavar="N", help="budget for their contents (default 2000)")
    p.add_argument(
        "--kind", "--kinds", dest="kinds", action="append", choices=KINDS, help="only this kind; may be repeated"
    )
    p.add_argument(
        "--tag", "--tags", dest="tags", action="append", metavar="TAG", help="only with this tag; may be repeated"
    )
    p.add_argument("--after", metavar="WHEN", help="only what happened then or later")
    p.add_argument("--before", metavar="WHEN", help="only what happened before")
    p.add_argument("--as-of", metavar="WHEN", help="what was known then")
    p.add_argument("--include-archived", action="store_true", default=None)
    p.add_argument("--response-format", choices=("concise", "detailed"), help="detailed also says why each was found")


def _folder(text: str) -> Path:
    if not text.strip():  # as a shell gives for a variable that is not set: the working folder is not what was meant
        raise argparse.ArgumentTypeError("it is empty: name a folder")
    return Path(text)


def _forget(p: argparse.ArgumentParser) -> None:
    p.add_argument("ids", nargs="*", metavar="ID")
    p.add_argument("--query", help="forget what matches this: first shows it")
    p.add_argument("--cube", help="with --query: only in this cube")
    p.add_argument("--confirm", metavar="TOKEN", help="the token that a preview printed")
    p.add_argument("--mode", choices=("archive", "erase"), help="archive can be undone (default); erase cannot")
    p.add_argument("--reason", help="goes into the audit log")
    p.add_argument("--yes", action="store_true", help="do not ask")


def _fuse(p: argparse.ArgumentParser) -> None:
    p.add_argument("ids", nargs="*", metavar="ID", help="two or more memories to make one of")
    p.add_argument("--content", metavar="TEXT", help="what the fused memory is to say; - reads standard input")
    p.add_argument("--cube", help="alone: propose groups worth fusing in this cube")
    p.add_argument("--cubes", nargs="+", metavar="CUBE", help="two or more cubes to make one of")
    p.add_argument("--into", metavar="CUBE", help="with --cubes: the name of the fused cube")
    p.add_argument("--dry-run", action="store_true", default=None, help="say what would happen")


# --- time travel, in and out, care --------------------------------------------------------------------------------


def _history(p: argparse.ArgumentParser) -> None:
    p.add_argument("id", metavar="ID")


def _restore(p: argparse.ArgumentParser) -> None:
    p.add_argument("id", metavar="ID")
    p.add_argument("--version", dest="to_version", type=int, required=True, metavar="N", help="as `history` shows it")
    p.add_argument("--reason", help="goes into the audit log")


def _facts(p: argparse.ArgumentParser) -> None:
    p.add_argument("cube", nargs="?", default="default", metavar="CUBE", help="default: default")


def _import(p: argparse.ArgumentParser) -> None:
    p.add_argument("format", nargs="?", choices=(AUTO, *IMPORTED), default=AUTO, help="recognised when absent, or auto")
    p.add_argument("path", metavar="PATH", help="the file, folder or zip; - reads standard input")
    p.add_argument("--cube", help="where memories go that name no cube themselves (default: default)")
    p.add_argument("--dry-run", action="store_true", help="say what would be new and what cannot be carried")
    p.add_argument(
        "--facts", action="store_true", help="draw facts from conversations with MEMOS_READER, in the background"
    )


def _export(p: argparse.ArgumentParser) -> None:
    p.add_argument("format", choices=EXPORTED)
    p.add_argument(
        "path",
        metavar="PATH",
        help="the file (a folder for markdown), written whole or not at all; - is standard output",
    )
    p.add_argument(
        "--cube", "--cubes", dest="cubes", action="append", metavar="CUBE", help="only this cube; may be repeated"
    )
    p.add_argument(
        "--force", action="store_true", help="replace what is there; of folders, only one that an export wrote"
    )


def _backup(p: argparse.ArgumentParser) -> None:
    p.add_argument("file", type=Path, metavar="FILE")


def _restore_backup(p: argparse.ArgumentParser) -> None:
    p.add_argument("file", type=Path, metavar="FILE")


def _encrypt(p: argparse.ArgumentParser) -> None:
    key = p.add_mutually_exclusive_group(required=True)
    key.add_argument("--passphrase-file", type=Path, metavar="FILE", help="the file that holds the passphrase")
    key.add_argument("--keyring", action="store_true", help="keep the key in the platform's keyring")
    p.add_argument("--change", action="store_true", help="give a store that is encrypted this key instead")


def _serve(p: argparse.ArgumentParser) -> None:
    p.add_argument("--host", help="where HTTP listens (default 127.0.0.1); elsewhere needs a token")
    p.add_argument("--port", type=int, help="HTTP port (default 8765; 0 takes a free one)")
    p.add_argument(
        "--model",
        metavar="NAME",
        help="the model behind /v1 and `ask`: a Hugging Face name, a folder, or the URL of an OpenAI-compatible server "
        "(default: MEMOS_MODEL)",
    )
    _toolsets(p)
    p.add_argument("--require-token", action="store_true", help="ask for a token on this machine too")
    p.add_argument("--allow-host", action="append", metavar="HOST", help="a further Host header to accept")
    p.add_argument("--allow-origin", action="append", metavar="ORIGIN", help="a further Origin header to accept")


def _token_name(p: argparse.ArgumentParser) -> None:
    p.add_argument("name", metavar="NAME")


def _token_create(p: argparse.ArgumentParser) -> None:
    _token_name(p)
    p.add_argument(
        "--scope",
        dest="scopes",
        action="append",
        metavar="SCOPE",
        help="read, write, share or admin, alone or for a cube, as in read:work; may be repeated (default read, write)",
    )
    p.add_argument("--expires-in-days", type=float, metavar="DAYS")


COMMANDS = (
    Command("remember", "keep a text or a conversation", "memory:remember", _remember),
    Command("recall", "find what is known about something", "memory:recall", _recall),
    Command("forget", "archive memories, or erase them for good", "memory:forget", _forget),
    Command("fuse", "make one memory of several", "memory:fuse", _fuse),
    Command("facts", "draw facts from stored conversations, with the reader of MEMOS_READER", "memory:facts", _facts),
    Command("history", "show every version of a memory", "memory:history", _history),
    Command("restore", "bring a memory back to an earlier version", "memory:restore", _restore),
    CHAT,
    TIER,
    SCHEDULER,
    GOVERN,
    CUBE,
    *MOUNTING,
    AUDIT,
    RECEIPT,
    Command("import", "take in memories from files of this and other programs", "importing:take_in", _import),
    Command("export", "write out every memory with its whole header", "files:write_out", _export),
    Command("backup", "write a copy of the whole store to a file", "files:backup", _backup),
    Command("restore-backup", "put a backup in the place of the store", "files:restore_backup", _restore_backup),
    Command("encrypt", "encrypt the store at rest, or change its key", "encryption:encrypt", _encrypt),
    Command("decrypt", "make an encrypted store readable without a key", "encryption:decrypt"),
    Command("serve", "run the daemon in the foreground, with HTTP", "serving:serve", _serve),
    Command(
        "token",
        "decide who may use `serve` over HTTP",
        parts=(
            Command("create", "make a token and print it, once", "tokens:create", _token_create),
            Command("list", "show the tokens that there are", "tokens:show"),
            Command("revoke", "end a token at once", "tokens:revoke", _token_name),
        ),
    ),
    Command("status", "say what runs and what it holds; starts nothing", "care:status"),
    Command("doctor", "check everything and say what to do about it", "doctor:doctor"),
    Command("stop", "end the daemon and wait until it is gone", "care:stop"),
)
