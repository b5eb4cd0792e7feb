"""The official memory server's graph: one JSON object a line, `{"type": "entity", …}` or `{"type": "relation", …}`.

An observation becomes a memory with the words as they stand, a relation one, and an entity without observations one.
Their metadata holds what the graph needs to be built again, in the order of the file: `entity` and its `type`, or the
relation's ends. Memories that never were a graph are put under the entity that they name first, else under their
conversation, document or cube.

What stays true: reading a graph and writing what came of it gives the same bytes, if the server wrote the file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from engine.errors import Invalid
from engine.formats.json_text import lines, shape
from engine.formats.records import Found, Record, Report, origin, record, rest
from engine.formats.source import Source, only
from engine.text.origins import FROM

NAME = "server-memory"
ENTITY, RELATION = "entity", "relation"
LIVE = ("generated", "activated")
MAX_TITLE_CHARS = 80


def fits(source: Source) -> bool:
    if len(source.members) != 1:
        return False
    found = shape(source.head(source.members[0]))
    return found.begins == "{" and (
        found.has("", "type", "entityType", "observations") or found.has("", "type", "from", "to", "relationType")
    )


# --- reading --------------------------------------------------------------------------------------------------------


def read(source: Source, report: Report) -> Iterator[Found]:
    seen: Counter[tuple[str, ...]] = Counter()
    for number, item in lines(source, only(source)):
        where = f"line {number}"
        sort = item.get("type") if isinstance(item, dict) else None
        try:
            if sort == ENTITY:
                yield from _entity(item, where, seen, report)
            elif sort == RELATION:
                yield _relation(item, where, seen)
            else:
                report.leave("line", "it is neither an entity nor a relation, and the server passes over it", where)
        except (KeyError, TypeError) as error:
            raise Invalid(f"{where} of {source.name} is no {sort} of the memory server: {error} is wrong") from error


def _entity(item: Record, where: str, seen: Counter[tuple[str, ...]], report: Report) -> Iterator[Found]:
    name, sort, observations = _text(item, "name"), _text(item, "entityType"), item["observations"]
    if not isinstance(observations, list):
        raise TypeError("'observations'")
    told = rest(item, "type", "name", "entityType", "observations")
    copy = _count(seen, ENTITY, name)
    about: Record = {
        "entity": name,
        "type": sort,
        **({"copy": copy} if copy else {}),
        **({"more": told} if told else {}),
    }
    kept = 0
    for place, words in enumerate(observations, 1):
        if not isinstance(words, str):
            raise TypeError("'observations'")
        if not words.strip():
            report.leave("observation", "it is empty", f"{where}, observation {place}")
            continue
        kept += 1
        again = _count(seen, "observation", name, str(copy), words)
        identity = json.dumps([name, copy, words, again], ensure_ascii=False)
        yield Found(
            f"{where}, observation {place}",
            record(words, {**origin(NAME, identity, name), "graph": about}, entities=_names(name)),
        )
    if not kept:
        identity = json.dumps([name, copy], ensure_ascii=False)
        content = f"{name} ({sort})" if sort.strip() else name
        graph = {**about, "bare": True}
        yield Found(where, record(content, {**origin(NAME, identity, name), "graph": graph}, entities=_names(name)))


def _relation(item: Record, where: str, seen: Counter[tuple[str, ...]]) -> Found:
    ends = (_text(item, "from"), _text(item, "relationType"), _text(item, "to"))
    again, told = _count(seen, RELATION, *ends), rest(item, "type", "from", "to", "relationType")
    graph = {"from": ends[0], "to": ends[2], "relation": ends[1], **({"more": told} if told else {})}
    identity = json.dumps([*ends, again], ensure_ascii=False)
    content = " ".join(ends)
    return Found(
        where, record(content, {**origin(NAME, identity, ends[0]), "graph": graph}, entities=_names(*ends[::2]))
    )


def _text(item: Record, name: str) -> str:
    value = item[name]
    if not isinstance(value, str):
        raise TypeError(f"'{name}'")
    return value


def _names(*names: str) -> list[str]:
    return list(dict.fromkeys(name for name in names if name.strip()))


def _count(seen: Counter[tuple[str, ...]], *what: str) -> int:
    """How often this was there before: equal things of one graph are kept apart by that."""
    seen[what] += 1
    return seen[what] - 1


# --- writing --------------------------------------------------------------------------------------------------------


def write(records: Iterable[Mapping[str, Any]], report: Report) -> Iterator[str]:
    """The lines of the server's file: entities, then relations, without a line end behind the last."""
    entities: dict[tuple[str, int], Record] = {}
    relations: list[Record] = []
    for item in records:
        if item["state"] not in LIVE:
            report.leave("memory", f"it is {item['state']}: the graph holds what counts now", item["id"])
        elif any(edge["relation"] == "part_of" for edge in item["lineage"]):
            continue  # a piece of a long text, which is there as a whole
        else:
            _place(item, entities, relations)
            if item["version"] > 1:
                report.leave("memory's earlier versions", "the graph has no place for them", item["id"])
    told = [*entities.values(), *relations]
    for number, line in enumerate(told, 1):
        yield json.dumps(line, ensure_ascii=False, separators=(",", ":")) + ("\n" if number < len(told) else "")


def _place(item: Mapping[str, Any], entities: dict[tuple[str, int], Record], relations: list[Record]) -> None:
    metadata = json.loads(item["metadata"]) if item.get("metadata") else {}
    graph = metadata.get("graph") if metadata.get(FROM) == NAME else None
    if not isinstance(graph, dict):
        name, sort, words = _subject(item, metadata)
        _entity_at(entities, name, 0, sort, {})["observations"].append(words)
    elif "relation" in graph:
        ends = {"type": RELATION, "from": graph["from"], "to": graph["to"], "relationType": graph["relation"]}
        relations.append({**ends, **graph.get("more", {})})
    else:
        found = _entity_at(entities, graph["entity"], graph.get("copy", 0), graph["type"], graph.get("more", {}))
        if not graph.get("bare"):
            found["observations"].append(item["content"])


def _entity_at(
    entities: dict[tuple[str, int], Record], name: str, copy: int, sort: str, more: Mapping[str, Any]
) -> Record:
    made: Record = {"type": ENTITY, "name": name, "entityType": sort, "observations": [], **more}
    return entities.setdefault((name, copy), made)


def _subject(item: Mapping[str, Any], metadata: Mapping[str, Any]) -> tuple[str, str, str]:
    """Entity, its type and the observation for a memory that was no part of a graph."""
    content = str(item["content"])
    if item["kind"] == "message" and item.get("session"):
        who = item.get("actor") or item.get("role") or "somebody"
        return item["session"], "conversation", f"{who}: {content}"
    if item["kind"] == "document":
        fields = metadata.get("fields")
        title = fields.get("title") if isinstance(fields, dict) else None
        first = content.strip().partition("\n")[0].lstrip("# ")[:MAX_TITLE_CHARS]
        return str(title or item.get("source") or first or item["id"]), "document", content
    if item.get("entities"):
        return item["entities"][0], "subject", content
    return item["cube"], "cube", content
