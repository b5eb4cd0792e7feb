"""OpenMemory's backup: a zip of `memories.json` (its tables) and `memories.jsonl.gz` (the memories), or one of the two.

Words, categories and the time of creation are taken over; id, app, state, times and metadata go into ours. Accounts,
access lists and the history of states have no place here and are reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.errors import Invalid
from engine.formats.json_text import lines, shape, whole
from engine.formats.records import Found, Record, Report, instant, labels, origin, record, rest, said
from engine.formats.source import Source

NAME = "openmemory"
TABLES, LINES = "memories.json", "memories.jsonl.gz"
BESIDE = {
    "user": "accounts are not memories",
    "apps": "which program stored a memory stands in that memory's metadata",
    "status_history": "earlier states of another program's memories have no place here",
    "access_controls": "rights are given here by cube",
    "export_meta": "it describes the export, not a memory",
}


def fits(source: Source) -> bool:
    names = {member.rpartition("/")[2] for member in source.members}
    if {TABLES, LINES} <= names:
        return True
    if len(source.members) != 1:
        return False
    found = shape(source.head(source.members[0]))
    return found.has("", "id", "content", "state", "app", "categories") or found.has(
        "", "memories", "memory_categories"
    )


def read(source: Source, report: Report) -> Iterator[Found]:
    """The tables if they are there, which say all that the lines say and more; else the lines."""
    tables = next((m for m in source.members if m.rpartition("/")[2].endswith(".json")), None)
    if tables is None and len(source.members) == 1 and not shape(source.head(source.members[0])).is_lines:
        tables = source.members[0] if shape(source.head(source.members[0])).has("", "memories") else None
    if tables is None:
        for number, item in lines(source, source.members[0]):
            yield from _memory(item, f"line {number}", {}, {}, report)
        return
    for member in source.members:
        if member != tables and member.rpartition("/")[2] != LINES:
            report.leave("file", "it is no part of such an export", member)
    held = whole(source, tables)
    if not isinstance(held, dict) or not isinstance(held.get("memories"), list):
        raise Invalid(f"{source.called(tables)} is no export of OpenMemory: it has no list of memories")
    named = {str(c.get("id")): c for c in held.get("categories", []) if isinstance(c, dict)}
    apps = {str(a.get("id")): a for a in held.get("apps", []) if isinstance(a, dict)}
    for number, item in enumerate(held["memories"], 1):
        yield from _memory(item, f"memory {number}", named, apps, report)
    for name, why in BESIDE.items():
        value = held.get(name)
        if value:
            report.leave(f"'{name}'", why, source.called(tables), len(value) if isinstance(value, list) else 1)


def _memory(
    item: Any, where: str, named: dict[str, Record], apps: dict[str, Record], report: Report
) -> Iterator[Found]:
    if not isinstance(item, dict):
        raise Invalid(f"{where} is not a JSON object")
    content, state = said(item.get("content")), item.get("state", "active")
    if content is None:
        report.leave("memory", "it has no text", where)
        return
    if state == "deleted":
        report.leave("memory", "it was deleted there", where)
        return
    categories = [str(named.get(str(id), {}).get("name", id)) for id in item.get("category_ids") or []]
    app = apps.get(str(item.get("app_id")), {}).get("name") or item.get("app")
    told = rest(item, "content", "id", "category_ids", "categories", "app")
    yield Found(
        where,
        record(
            content,
            origin(NAME, item.get("id"), **told, app=app),
            tags=labels(item.get("categories")) or categories,
            occurred_at=instant(item.get("created_at")),
        ),
    )
