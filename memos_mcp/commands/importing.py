"""Memories out of files, whatever program wrote them.

The file is read here and its records go to the daemon in batches, so that neither holds more than a few at once. What
must stay true: every record of a file is counted as added, known, refused or not carried, and the last two say where
and why; a dry run changes nothing; a file that breaks off leaves in what stood before, and the same file again adds the
rest.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.errors import MemosError
from engine.formats import FORMATS, Format, Found, Left, Report, Source, opened, piped, recognise
from memos_mcp.commands.memory import STANDARD_STREAM
from memos_mcp.commands.session import DONE, Failure, Session
from memos_mcp.terminal import Bar

Counts = dict[str, Any]

AUTO = "auto"
BATCH_RECORDS = 500
BATCH_BYTES = 4 * 1024 * 1024  # a request is one line: far below what the daemon takes
MAX_RECORD_BYTES = 16 * 1024 * 1024  # a turn of a million characters, escaped, and its header
SHOWN_REFUSALS = 10
RECORD_NUMBER = re.compile(r"record (\d+)")
OUTCOMES = ("added", "duplicates", "conflicts")
TO_READ = "to_read"


def take_in(session: Session, options: argparse.Namespace) -> int:
    """`import`: in batches, each of which is there whole or not at all; the same file again changes nothing."""
    with _source(options.path) as source, session.screen.bar("import") as bar:
        known = _format(source, options.format)
        taking = _Taking(session, source, known, options.cube, bar, dry_run=options.dry_run, facts=options.facts)
        taking.run()
    _tell(session, taking)
    if taking.refused:
        raise Failure(f"{len(taking.refused)} of {taking.read} were not taken in; all others are")
    return DONE


def _format(source: Source, name: str) -> Format:
    try:
        return recognise(source) if name == AUTO else FORMATS[name]
    except MemosError as error:
        raise Failure(str(error)) from error


@contextlib.contextmanager
def _source(path: str) -> Iterator[Source]:
    try:
        with contextlib.ExitStack() as stack:
            if path == STANDARD_STREAM:
                source = piped(sys.stdin.buffer, path)
            else:
                source = stack.enter_context(opened(Path(path).expanduser()))
            yield source
    except MemosError as error:
        raise Failure(str(error)) from error


@dataclass(slots=True)
class _Taking:
    """One import: what was read, and what became of it."""

    session: Session
    source: Source
    format: Format
    cube: str | None
    bar: Bar
    dry_run: bool
    facts: bool
    read: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    report: Report = field(default_factory=Report)
    _seen: set[bytes] = field(default_factory=set)  # of a dry run: what a later batch repeats is not new
    _done: int = 0

    def run(self) -> None:
        self.source.read = self._count_bytes
        ask = self._ask if not self.dry_run or self.session.settings.data.exists() else _asked_without_a_store
        try:
            for batch in self._batches():
                self._take(batch, ask)
        except MemosError as error:
            raise Failure(f"{error}{self._so_far()}") from error

    def _count_bytes(self, count: int) -> None:
        self._done += count

    def _so_far(self) -> str:
        if self.dry_run or not self.counts["added"]:
            return ""
        return f" ({self.counts['added']} memories that stand before it are in)"

    def _batches(self) -> Iterator[list[Found]]:
        batch: list[Found] = []
        size = 0
        for found in self.format.read(self.source, self.report):
            self.read += 1
            known = self.source.size
            self.bar(self._done if known else self.read, known, f"{self.read:,} memories")
            if self.cube is not None:
                found.record.setdefault("cube", self.cube)
            length = len(json.dumps(found.record))
            if length > MAX_RECORD_BYTES:
                self.refused.append(f"{found.where}: it is larger than {MAX_RECORD_BYTES >> 20} MiB")
            elif self.dry_run and self._is_repeated(found.record):
                self.counts["duplicates"] += 1
            else:
                batch.append(found)
                size += length
            if len(batch) == BATCH_RECORDS or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _is_repeated(self, record: dict[str, Any]) -> bool:
        told = record["id"] if "id" in record and "state" in record else record
        mark = hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=12).digest()
        is_repeated = mark in self._seen
        self._seen.add(mark)
        return is_repeated

    def _take(self, batch: list[Found], ask: Callable[[list[dict[str, Any]]], Counts]) -> None:
        answer = ask([found.record for found in batch])
        self.counts.update({name: answer.get(name, 0) for name in OUTCOMES})
        self.counts[TO_READ] += answer.get(TO_READ, 0)
        self.kinds.update(answer.get("kinds", {}))
        self.refused += [_placed(complaint, batch) for complaint in answer.get("refused", ())]

    def _ask(self, records: list[dict[str, Any]]) -> Counts:
        try:
            answer = self.session.call("import", {"records": records, "dry_run": self.dry_run, "facts": self.facts})
        except Failure as failure:
            raise Failure(f"{failure}{self._so_far()}") from None
        return dict(answer)


def _asked_without_a_store(records: list[dict[str, Any]]) -> Counts:
    """What a dry run says where there is no store yet, without making one: all that is sound would be new."""
    # Only here: it loads the engine, which the daemon has already.
    from engine.incoming import REFUSALS, kind_of, reason

    now, kinds, refused = datetime.now(UTC), Counter[str](), []
    for number, record in enumerate(records, 1):
        try:
            kinds[kind_of(record, now).value] += 1
        except REFUSALS as error:
            refused.append(f"record {number}: {reason(error)}")
    return {"added": len(records) - len(refused), "kinds": kinds, "refused": refused}


def _placed(complaint: str, batch: list[Found]) -> str:
    """The daemon counts the records of one request; a person looks for the place in the file."""
    match = RECORD_NUMBER.match(complaint)
    return f"{batch[int(match[1]) - 1].where}{complaint[match.end() :]}" if match else complaint


def _tell(session: Session, taking: _Taking) -> None:
    screen, left = session.screen, taking.report.left
    if screen.as_json:
        screen.json(
            {
                "format": taking.format.name,
                "dry_run": taking.dry_run,
                "read": taking.read,
                **{name: taking.counts[name] for name in (*OUTCOMES, *([TO_READ] if taking.facts else ()))},
                "kinds": dict(taking.kinds),
                "refused": taking.refused,
                "not_carried": [asdict(entry) for entry in left],
            }
        )
    else:
        screen.line(f"{taking.format.name}: {taking.format.what}")
        added = "would be added" if taking.dry_run else "added"
        rows = [("read", taking.read), (added, taking.counts["added"])]
        rows += [(f"  {kind}", count) for kind, count in sorted(taking.kinds.items())]
        rows += [("known already", taking.counts["duplicates"]), ("in conflict", taking.counts["conflicts"])]
        rows += [("refused", len(taking.refused)), ("not carried", sum(entry.count for entry in left))]
        screen.table(("", "memories"), rows)
        if taking.dry_run:
            screen.line("nothing was changed")
        if turns := taking.counts[TO_READ]:
            screen.line(f"facts are drawn from {turns:,} turns in the background: memos-mcp tier work")
    for complaint in taking.refused if screen.verbose else taking.refused[:SHOWN_REFUSALS]:
        screen.remark(complaint)
    tell_left(session, left)


def tell_left(session: Session, left: list[Left]) -> None:
    """What was not carried, one line a sort: how many, why, and where the first stood."""
    for entry in left:
        more = " and elsewhere" if entry.count > len(entry.where) else ""
        places = "; ".join(entry.where) + more if session.screen.verbose else f"{entry.where[0]}{more}"
        session.screen.remark(f"not carried: {entry.count:,} × {entry.what}: {entry.why} ({places})")
