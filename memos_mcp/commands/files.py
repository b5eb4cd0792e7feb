"""Memories in and out of files: import, export, backup, restore-backup.

The daemon reads and writes the store; this module reads and writes the other files. What must stay true: an exported
file appears whole or not at all, and only its owner may read it; a line that cannot be read is named by its number
and nothing after it is taken in; a store that is replaced is kept aside.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from memos_mcp.commands.memory import STANDARD_STREAM
from memos_mcp.commands.session import DONE, Failure, Session
from memos_mcp.terminal import Bar

Record = dict[str, Any]

BATCH_RECORDS = 500
BATCH_BYTES = 4 * 1024 * 1024  # a request is one line: far below what the daemon takes
SHOWN_REFUSALS = 10
RECORD_NUMBER = re.compile(r"record (\d+)")
MAX_LINE_BYTES = 16 * 1024 * 1024  # a content of 200,000 characters, escaped, and its header, many times over


# --- import ---------------------------------------------------------------------------------------------------------


def take_in(session: Session, options: argparse.Namespace) -> int:
    """`import`: in batches, each of which is there whole or not at all; the same file again changes nothing."""
    with _input(options.path) as file, session.screen.bar("import") as bar:
        source = _Lines(file, options.path, _size(file), bar)
        report = _rehearse(source) if options.dry_run else _send(session, source)
    if session.screen.as_json:
        session.screen.json(report)
    else:
        session.screen.table(("", "memories"), [(name.replace("_", " "), count) for name, count in _counts(report)])
        if options.dry_run:
            session.screen.line("nothing was changed")
    if refused := report.get("refused"):
        for complaint in refused if session.screen.verbose else refused[:SHOWN_REFUSALS]:
            session.screen.remark(complaint)
        raise Failure(f"{len(refused)} of {report['read']} were not taken in; all others are")
    return DONE


def _send(session: Session, source: _Lines) -> Record:
    report: Record = {}
    for batch in _batches(source):
        try:
            added = session.call("import", {"records": [record for record, _ in batch]})
        except Failure as failure:
            first, last = batch[0][1], batch[-1][1]
            raise Failure(
                f"{failure} (in lines {first} to {last} of {source.name}; lines before them are in)"
            ) from None
        added["refused"] = [_with_line(complaint, batch) for complaint in added.get("refused", ())]
        _add(report, added)
    return {"read": source.records, **report}


def _with_line(complaint: str, batch: list[tuple[Record, int]]) -> str:
    """The daemon counts the records of one request; a person counts the lines of the file."""
    match = RECORD_NUMBER.match(complaint)
    return f"line {batch[int(match[1]) - 1][1]}{complaint[match.end() :]}" if match else complaint


def _add(report: Record, part: Record) -> None:
    for name, value in part.items():
        if isinstance(value, bool) or not isinstance(value, (int, list)):
            report[name] = value
        else:
            report[name] = report.get(name, type(value)()) + value


def _counts(report: Record) -> list[tuple[str, int]]:
    return [
        (name, len(value) if isinstance(value, list) else value)
        for name, value in report.items()
        if isinstance(value, (int, list))
    ]


def _rehearse(source: _Lines) -> Record:
    ids: Counter[str] = Counter()
    cubes: set[str] = set()
    for record, number in source:
        content = record.get("content")
        if not isinstance(content, str) or not content.strip():
            raise Failure(f"line {number} of {source.name} has no content")
        cubes.add(str(record.get("cube", "default")))
        if isinstance(record.get("id"), str):
            ids[record["id"]] += 1
    return {"read": source.records, "cubes": len(cubes), "repeated_ids": sum(n - 1 for n in ids.values())}


@dataclass
class _Lines:
    """The objects of a file of one JSON object a line, with their line numbers; blank lines are skipped."""

    file: BinaryIO
    name: str
    size: int | None
    bar: Bar
    records: int = 0

    def __iter__(self) -> Iterator[tuple[Record, int]]:
        done = 0
        for number in itertools.count(1):
            line = self.file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
                raise Failure(f"line {number} of {self.name} is longer than {MAX_LINE_BYTES >> 20} MiB")
            done += len(line)
            if not line.strip():
                continue
            yield _record(line, number, self.name), number
            self.records += 1
            self.bar(done if self.size else self.records, self.size, f"{self.records:,} memories")


def _record(line: bytes, number: int, name: str) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise Failure(f"line {number} of {name} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise Failure(f"line {number} of {name} is not a JSON object: one memory a line is expected")
    return record


def _batches(source: _Lines) -> Iterator[list[tuple[Record, int]]]:
    batch: list[tuple[Record, int]] = []
    size = 0
    for record, number in source:
        batch.append((record, number))
        size += len(json.dumps(record))
        if len(batch) == BATCH_RECORDS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@contextlib.contextmanager
def _input(path: str) -> Iterator[BinaryIO]:
    if path == STANDARD_STREAM:
        yield sys.stdin.buffer
        return
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(Path(path).open("rb"))
        except OSError as error:
            raise Failure(f"cannot read {path}: {error.strerror}") from error
        yield file


def _size(file: BinaryIO) -> int | None:
    return os.fstat(file.fileno()).st_size if file.seekable() else None


# --- export ---------------------------------------------------------------------------------------------------------


def write_out(session: Session, options: argparse.Namespace) -> int:
    """`export`: one JSON object a memory, as the daemon sends them."""
    wanted = {"cubes": options.cubes} if options.cubes else {}
    if options.path == STANDARD_STREAM:
        count = _copy(session.items("export", wanted), sys.stdout)
    else:
        path = Path(options.path)
        if path.exists() and not options.force:
            raise Failure(f"{path} is there already: choose another name, or --force to replace it")
        with session.screen.bar("export") as bar:
            count = _whole_file(path, lambda file: _copy(session.items("export", wanted), file, bar))
    session.screen.remark(f"exported {count:,} {'memory' if count == 1 else 'memories'}")
    return DONE


def _copy(items: Iterator[Any], file: TextIO, bar: Bar | None = None) -> int:
    count = 0
    for item in items:
        file.write(json.dumps(item, ensure_ascii=False) + "\n")
        count += 1
        if bar is not None:
            bar(count, None, "memories")
    file.flush()
    return count


def _whole_file(path: Path, write: Callable[[TextIO], int]) -> int:
    """Let `write` fill a new file beside `path`, and give it the name only when it is complete and on disk."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            count = write(file)
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return count


# --- backups --------------------------------------------------------------------------------------------------------


def backup(session: Session, options: argparse.Namespace) -> int:
    path = options.file.expanduser().absolute()
    if path.exists():
        raise Failure(f"{path} is there already: choose another name")
    with session.screen.bar("backup") as bar:
        result = session.call("backup", {"path": str(path)}, bar)
    written = result if isinstance(result, dict) else {"path": result}
    if session.screen.as_json:
        session.screen.json(written)
    else:
        session.screen.line(f"backup written to {written['path']}")
    return DONE


def restore_backup(session: Session, options: argparse.Namespace) -> int:
    """`restore-backup`: the only command that touches the store itself, and only when no daemon has it."""
    # Only here: every other command leaves the engine alone, and need not wait for it to load.
    from engine.clock import SystemClock
    from engine.memos import restore_backup as put_back

    path = options.file.expanduser().absolute()
    if not path.is_file():
        raise Failure(f"{path} is not a file")
    data = session.settings.data
    session.stop_daemon()
    kept = put_back(session.settings, path, SystemClock().now())
    if session.screen.as_json:
        session.screen.json({"restored": str(path), "data": str(data), "kept": None if kept is None else str(kept)})
        return DONE
    session.screen.line(f"the store in {data} is now what {path} holds")
    if kept is not None:
        session.screen.line(f"what was there before is kept in {kept}")
    return DONE
