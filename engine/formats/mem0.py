"""What mem0 gives out: the list of `get_all` (bare, or as `results` or `memories`), with graph relations beside it.

Words, categories and the time of creation are taken over; id, hash, users, times and metadata go into ours. An export
in a form that its user made up (a schema of his own) is told from this by its lack of `memory` fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.errors import Invalid
from engine.formats.json_text import Shape, items, shape
from engine.formats.records import Found, Report, instant, labels, origin, record, rest, said
from engine.formats.source import Source, only

NAME = "mem0"
PLACES = ("item", "results.item", "memories.item")


def fits(source: Source) -> bool:
    return len(source.members) == 1 and _place(shape(source.head(source.members[0]))) is not None


def _place(found: Shape) -> str | None:
    return next((place for place in PLACES if found.has(place, "memory")), None)


def read(source: Source, report: Report) -> Iterator[Found]:
    member = only(source)
    found = shape(source.head(member))
    place = _place(found)
    if place is None:
        raise Invalid(f"{source.name} is no export of mem0: it has no list of objects with a 'memory'")
    for number, item in enumerate(items(source, member, place), 1):
        where = f"memory {number}"
        if not isinstance(item, dict):
            raise Invalid(f"{where} of {source.name} is not a JSON object")
        content = said(item.get("memory"))
        if content is None:
            report.leave("memory", "it has no text", where)
            continue
        told = rest(item, "memory", "id", "categories")
        yield Found(
            where,
            record(
                content,
                origin(NAME, item.get("id"), **told),
                tags=labels(item.get("categories")),
                actor=said(item.get("actor_id")),
                occurred_at=instant(item.get("created_at")),
                expires_at=instant(item.get("expiration_date")),
            ),
        )
    if "relations" in found.keys.get("", ()):
        for number, item in enumerate(items(source, member, "relations.item"), 1):
            yield from _relation(item, f"relation {number}", report)


def _relation(item: Any, where: str, report: Report) -> Iterator[Found]:
    """What the graph memory of mem0 returns beside the results: source, relationship, target (or destination)."""
    if not isinstance(item, dict):
        raise Invalid(f"{where} is not a JSON object")
    first, how = said(item.get("source")), said(item.get("relationship", item.get("relation")))
    last = said(item.get("target", item.get("destination")))
    if first is None or how is None or last is None:
        report.leave("relation", "it lacks an end or a name", where)
        return
    content = f"{first} {how} {last}"
    yield Found(where, record(content, origin(NAME, f"relation:{content}", first, **item), entities=[first, last]))
