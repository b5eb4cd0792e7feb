"""Markdown files, alone or in folders: one file a memory, its front matter the header.

A file that we wrote carries the whole header (`memos: 1`), and comes back as the very memory that it was, with its
history. If its text was edited since, it is something new that was said, with the header's tags and kind. Of files that
others wrote, `tags`, `kind`, `occurred_at` or `date` and `source` are taken for what they say; the rest of the front
matter is kept in the metadata, and the text stays as it is.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cubes import digest
from engine.errors import Invalid, TooLarge
from engine.formats.front_matter import join, split
from engine.formats.records import Found, Record, Report, instant, kind_or_none, labels, origin, record, rest
from engine.formats.source import Source

NAME = "markdown"
ENDINGS = (".md", ".markdown")
OURS, OUR_VERSION = "memos", 1
MAX_FILE_BYTES = 64 << 20
MAX_SLUG_CHARS = 40
HEADER_FIRST = ("id", "cube", "kind", "tags", "state", "created_at", "occurred_at", "source", "actor")
WHEN = ("occurred_at", "date", "created", "created_at")
# What is left out of a header because every memory without it has it, and put back when it is read.
USUAL: Record = {
    "occurred_at": None,
    "source": None,
    "actor": None,
    "role": None,
    "session": None,
    "position": None,
    "tags": [],
    "entities": [],
    "mentions": [],
    "parts": 0,
    "metadata": None,
    "expires_at": None,
    "priority": 0,
    "sensitivity": "normal",
    "pinned": False,
    "frozen": False,
    "reason": None,
    "lineage": [],
    "usage": {"access_count": 0, "last_access": None},
    "history": [],
}


# --- reading --------------------------------------------------------------------------------------------------------


def fits(source: Source) -> bool:
    return any(member.lower().endswith(ENDINGS) for member in source.members)


def files(source: Source, report: Report) -> Iterator[tuple[str, str]]:
    """Names and texts of the Markdown files of a source; what else there is, is reported."""
    if source.hidden:
        report.leave(
            "hidden file or folder", "names that begin with a dot are not looked at", source.name, source.hidden
        )
    for member in source.members:
        if len(source.members) > 1 and not member.lower().endswith(ENDINGS):
            report.leave("file", "it is no Markdown", member)
            continue
        with source.open(member) as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise TooLarge(f"{source.called(member)} is larger than {MAX_FILE_BYTES >> 20} MiB")
        try:
            yield member, data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Invalid(f"{source.called(member)} is not UTF-8 text at byte {error.start}") from error


def read(source: Source, report: Report) -> Iterator[Found]:
    for member, text in files(source, report):
        fields, body = split(text, source.called(member))
        if fields.get(OURS) == OUR_VERSION:
            yield Found(member, _ours(fields, body))
        elif body.strip():
            yield Found(member, _theirs(fields, body, member))
        else:
            report.leave("file", "it has no text", member)


def _ours(fields: Record, body: str) -> Record:
    header = {**USUAL, **rest(fields, OURS, "digest")}
    content = body.removesuffix("\n")
    if fields.get("digest") in (digest(content), digest(body)):
        metadata = header["metadata"]
        kept = metadata if metadata is None else json.dumps(metadata, ensure_ascii=False)
        return {**header, "content": content if fields["digest"] == digest(content) else body, "metadata": kept}
    told = {
        name: header[name] for name in ("cube", "kind", "tags", "occurred_at", "source", "entities") if header.get(name)
    }
    return record(content, origin(NAME, digest(content), edited_from=header.get("id")), **told)


def _theirs(fields: Record, body: str, member: str) -> Record:
    when = next((name for name in WHEN if instant(fields.get(name))), None)
    kind = kind_or_none(fields.get("kind")) or kind_or_none(fields.get("type"))
    told = rest(fields, "tags", "source")
    return record(
        body,
        origin(NAME, member, **told),
        kind=kind,
        tags=labels(fields.get("tags")),
        occurred_at=None if when is None else instant(fields[when]),
        source=str(fields["source"]) if fields.get("source") else member,
    )


# --- writing --------------------------------------------------------------------------------------------------------


def write(records: Iterable[Mapping[str, Any]], report: Report) -> Iterator[tuple[str, str]]:
    """Names and texts of the files of a folder, one a memory; the same memories give the same files."""
    taken: set[str] = set()
    for item in records:
        name = _name(item, taken)
        yield name, _text(item)


def _text(item: Mapping[str, Any]) -> str:
    content = item["content"]
    header: Record = {name: item[name] for name in (*HEADER_FIRST, *rest(item, *HEADER_FIRST)) if name in item}
    kept = {name: value for name, value in header.items() if name != "content" and not _is_usual(name, value)}
    if isinstance(kept.get("metadata"), str):
        kept["metadata"] = json.loads(kept["metadata"])
    return join({OURS: OUR_VERSION, **kept, "digest": digest(content)}, content + "\n")


def _is_usual(name: str, value: object) -> bool:
    return name in USUAL and USUAL[name] == value and type(USUAL[name]) is type(value)


def _name(item: Mapping[str, Any], taken: set[str]) -> str:
    """`<cube>/<first words>-<id>.md`, of characters that every file system has, also where case means nothing."""
    folder = _slug(item["cube"])
    if folder != item["cube"]:
        folder = f"{folder or 'cube'}-{digest(item['cube'])[7:15]}"
    words = _slug(item["content"][: 4 * MAX_SLUG_CHARS])[:MAX_SLUG_CHARS].rpartition(
        "-" if len(item["content"]) > 40 else "\0"
    )
    stem = "-".join(part for part in (words[0] or words[2], _slug(item["id"], "_")) if part)
    name = f"{folder}/{stem}.md"
    if name.casefold() in taken:
        name = f"{folder}/{stem}-{digest(item['id'])[7:15]}.md"
    taken.add(name.casefold())
    return name


def _slug(text: str, keep: str = "") -> str:
    folded = unicodedata.normalize("NFKD", text)
    return re.sub(rf"[^a-z0-9{keep}]+", "-", folded.encode("ascii", "ignore").decode().lower()).strip("-")[:64]
