"""Tables of comma-separated values: one row a memory.

Columns whose names are fields of a memory are these fields; all others go into the metadata. Values that do not fit
their field (a kind that is none of ours, a date that is none) stay in the metadata as they are written.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator

from engine.errors import Invalid
from engine.formats.records import Found, Record, Report, instant, kind_or_none, labels, origin, record
from engine.formats.source import Source, only

NAME = "csv"
MAX_FIELD_CHARS = 16 << 20
CONTENT = ("content", "text", "memory", "note", "body", "fact", "observation")
ENDINGS = (".csv", ".tsv")
FIELDS: dict[str, tuple[str, Callable[[str], object]]] = {
    "kind": ("kind", kind_or_none),
    "type": ("kind", kind_or_none),
    "tags": ("tags", labels),
    "tag": ("tags", labels),
    "labels": ("tags", labels),
    "occurred_at": ("occurred_at", instant),
    "date": ("occurred_at", instant),
    "time": ("occurred_at", instant),
    "when": ("occurred_at", instant),
    "expires_at": ("expires_at", instant),
    "source": ("source", str),
    "actor": ("actor", str),
    "cube": ("cube", str),
    "entities": ("entities", labels),
}


def fits(source: Source) -> bool:
    if len(source.members) != 1:
        return False
    name = source.members[0].lower()
    if name.endswith(ENDINGS):
        return True
    if "." in name.rpartition("/")[2]:
        return False
    first = source.head(source.members[0]).partition(b"\n")[0].decode("utf-8-sig", "replace")
    names = [_named(column) for column in next(csv.reader([first], delimiter=_delimiter(first)), [])]
    return len(names) > 1 and any(name in CONTENT for name in names)


def read(source: Source, report: Report) -> Iterator[Found]:
    member = only(source)
    csv.field_size_limit(MAX_FIELD_CHARS)
    first = source.head(member).partition(b"\n")[0].decode("utf-8-sig", "replace")
    with source.open(member) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
        rows = csv.reader(text, delimiter=_delimiter(first), strict=True)
        try:
            columns = next(rows, [])
            place = _content_column(columns, source)
            for number, row in enumerate(rows, 2):  # as spreadsheets count them, the names of the columns being row 1
                if not any(cell.strip() for cell in row):
                    continue
                where = f"row {number}"
                if len(row) > len(columns):
                    raise Invalid(f"{where} of {source.name} has {len(row)} values for {len(columns)} columns")
                yield from _row(dict(enumerate(row)), columns, place, where, report)
        except (csv.Error, UnicodeDecodeError) as error:
            raise Invalid(f"{source.name} is no table from line {rows.line_num} on: {error}") from error
        finally:
            text.detach()


def _row(row: dict[int, str], columns: list[str], place: int, where: str, report: Report) -> Iterator[Found]:
    if not row.get(place, "").strip():
        report.leave("row", f"its column '{columns[place]}' is empty", where)
        return
    fields: Record = {}
    others: dict[str, str] = {}
    for number, value in row.items():
        if number == place or not value.strip():
            continue
        name, parse = FIELDS.get(_named(columns[number]), ("", str))
        parsed = parse(value) if name and name not in fields else None
        if parsed:
            fields[name] = parsed
        else:
            others[columns[number] or f"column {number + 1}"] = value
    yield Found(where, record(row[place], origin(NAME, **others) if others else None, **fields))


def _content_column(columns: list[str], source: Source) -> int:
    names = [_named(column) for column in columns]
    found = next((names.index(name) for name in CONTENT if name in names), None)
    if found is None:
        shown = ", ".join(column[:40] for column in columns[:12]) or "none"
        raise Invalid(f"{source.name} has no column named {' or '.join(CONTENT)}: its columns are {shown}")
    return found


def _named(column: str) -> str:
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def _delimiter(first: str) -> str:
    return max(",\t;", key=first.count)
