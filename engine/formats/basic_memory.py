"""A basic-memory project: a folder of Markdown notes with observations and relations among their lines.

    - [category] what was observed #tag #another (context)
    - relation_type [[Target]] (context)

A note becomes a document with its text as it stands, each observation and each relation a memory beside it, and the
front matter goes along in the note's metadata. Links inside running text stay where they are: in the note.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from engine.errors import Invalid
from engine.formats.front_matter import split
from engine.formats.markdown import ENDINGS, files
from engine.formats.records import Found, Record, Report, instant, kind_or_none, labels, origin, record, rest
from engine.formats.source import Source

NAME = "basic-memory"
NOTES_LOOKED_AT = 50
_ITEM = re.compile(r"^[ \t]*[-*+][ \t]+(.*\S)[ \t]*$")
_FENCE = re.compile(r"^[ \t]*(```|~~~)")
_CATEGORY = re.compile(r"^\[([^\[\]()]+)\]\s+(.+)$")
_CLOCK = re.compile(r"^\d{1,3}:\d{2}(?::\d{2})?(?:[.,]\d{1,3})?(?:\s+-\s+\d{1,3}:\d{2}(?::\d{2})?(?:[.,]\d{1,3})?)?$")
_TAG = re.compile(r"(?:^|(?<=\s))#([^\s#]+)")
_RELATION = re.compile(r"""^(?P<type>"[^"]+"|'[^']+'|\S+)\s+\[\[(?P<target>[^\[\]]+)\]\](?:\s+\((?P<context>.*)\))?$""")


def fits(source: Source) -> bool:
    """Its notes carry a permalink, which other programs do not write."""
    notes = [member for member in source.members if member.lower().endswith(ENDINGS)]
    for member in notes[:NOTES_LOOKED_AT]:
        try:
            fields, _ = split(source.head(member).decode("utf-8-sig", "replace"), member)
        except Invalid:
            continue
        if "permalink" in fields:
            return True
    return False


def read(source: Source, report: Report) -> Iterator[Found]:
    for member, text in files(source, report):
        fields, body = split(text, source.called(member))
        title = str(fields.get("title") or member.rpartition("/")[2].rpartition(".")[0])
        permalink = str(fields.get("permalink") or member)
        at = next((when for name in ("created", "date", "created_at") if (when := instant(fields.get(name)))), None)
        if body.strip():
            told = rest(fields, "tags", "permalink")
            metadata = origin(NAME, permalink, title, **{"title": title, **told, "file": member})
            yield Found(
                member,
                record(
                    body,
                    metadata,
                    kind="document",
                    tags=labels(fields.get("tags")),
                    entities=[title],
                    occurred_at=at,
                    source=permalink,
                ),
            )
        else:
            report.leave("note", "it has no text", member)
        seen: Counter[str] = Counter()
        for number, line in _lines(body):
            found = _relation(line, title) or _observation(line, title)
            if found is None:
                continue
            content, fields_of_it = found
            seen[line] += 1
            identity = f"{permalink}#{line}" + (f"#{seen[line]}" if seen[line] > 1 else "")
            yield Found(f"{member}, line {number}", _beside(content, fields_of_it, identity, title, permalink, at))


def _lines(body: str) -> Iterator[tuple[int, str]]:
    """The items of the note's lists, with their line numbers; code is none."""
    fenced = False
    for number, line in enumerate(body.splitlines(), 1):
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced and (found := _ITEM.match(line)):
            yield number, found[1]


def _beside(content: str, told: Record, identity: str, title: str, permalink: str, at: str | None) -> Record:
    fields = {
        name: value for name, value in told.items() if name in ("category", "context", "relation", "target", "line")
    }
    return record(
        content,
        origin(NAME, identity, title, note=permalink, **fields),
        kind=kind_or_none(told.get("category")),
        tags=told.get("tags", []),
        entities=[title, *([told["target"]] if "target" in told else [])],
        occurred_at=at,
        source=permalink,
    )


def _relation(line: str, title: str) -> tuple[str, Record] | None:
    found = _RELATION.match(line)
    if found is None:
        return None
    sort, target = found["type"].strip("\"'"), found["target"].strip()
    context = f" ({found['context']})" if found["context"] else ""
    told = {"relation": sort, "target": target, "context": found["context"], "line": line}
    return f"{title} {sort} {target}{context}", told


def _observation(line: str, title: str) -> tuple[str, Record] | None:
    """As basic-memory tells observations: a category in brackets, or a word with #; tasks, times and links are none."""
    if line.startswith(("[ ]", "[x]", "[-]")) or re.match(r"^\[.*?\]\(.*?\)$|^\[\[.*?\]\]$", line):
        return None
    found = _CATEGORY.match(line)
    category = found[1].strip() if found else None
    if category is not None and (_CLOCK.match(category) or _marks_a_task(category)):
        category = None
    tags = _TAG.findall(line)
    if category is None and not tags:
        return None
    words = found[2].strip() if found and category is not None else line
    context = None
    if words.endswith(")") and (start := words.rfind("(")) > 0:
        words, context = words[:start].strip(), words[start + 1 : -1].strip()
    return words, {"category": category, "context": context, "tags": list(dict.fromkeys(tags)), "line": line}


def _marks_a_task(category: str) -> bool:
    return len(category) == 1 and (category in "xX" or not category.isalnum())
