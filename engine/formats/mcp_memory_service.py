"""Exports of mcp-memory-service: `{"export_metadata", "memories": [{"content", "content_hash", "tags", …}]}`.

Its older backups (`{"timestamp", "total_memories", "memories": [{"id", "document", "metadata"}]}`) are read as well.
Words, tags and the time of creation are taken over; hash, type, times and metadata go into ours. Embeddings are not.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.errors import Invalid
from engine.formats.json_text import Shape, items, shape
from engine.formats.records import Found, Report, instant, kind_or_none, labels, origin, record, rest, said
from engine.formats.source import Source, only

NAME = "mcp-memory-service"
VECTOR = "it is made anew by this program's own embedder"


def fits(source: Source) -> bool:
    return len(source.members) == 1 and _place(shape(source.head(source.members[0]))) is not None


def _place(found: Shape) -> str | None:
    if found.has("memories.item", "content", "content_hash") or found.has("memories.item", "document", "id"):
        return "memories.item"
    if found.has("", "export_metadata"):
        return "memories.item"
    return "item" if found.has("item", "content", "content_hash") else None


def read(source: Source, report: Report) -> Iterator[Found]:
    member = only(source)
    found = shape(source.head(member))
    place = _place(found)
    if place is None:
        raise Invalid(f"{source.name} is no export of {NAME}: it has no memories with a content_hash")
    for number, item in enumerate(items(source, member, place), 1):
        where = f"memory {number}"
        if not isinstance(item, dict):
            raise Invalid(f"{where} of {source.name} is not a JSON object")
        held = item.get("metadata")
        about = held if isinstance(held, dict) else {}
        content = said(item.get("content", item.get("document")))
        if content is None:
            report.leave("memory", "it has no text", where)
            continue
        if item.get("embedding") is not None:
            report.leave("embedding", VECTOR, where)
        created = item.get("created_at", about.get("created_at", about.get("timestamp")))
        sort = item.get("memory_type", about.get("type"))
        told = rest(item, "content", "document", "content_hash", "id", "tags", "embedding", "metadata")
        identity = item.get("content_hash") or item.get("id")
        yield Found(
            where,
            record(
                content,
                origin(NAME, identity, **told, metadata=about),
                tags=labels(item.get("tags", about.get("tags"))),
                kind=kind_or_none(sort),
                occurred_at=instant(created),
            ),
        )
    for name in sorted(found.keys.get("", set()) - {"memories"}) if place == "memories.item" else ():
        report.leave(f"field '{name}'", "it describes the export, not a memory", source.name)
