"""A file as a note: its words verbatim, and what its front matter says of it.

A pure function of the bytes. Encodings are UTF-8 and UTF-16 (by its byte order mark); what is neither is not guessed
at. Front matter is kept whole as metadata, and some of its fields are used: tags, kind, date, sensitivity. Front matter
that cannot be read stays in the content. Files are not refused for holding secrets, since the file stays as it is
anyway: the note is kept as `secret`, and the folder's owner is told.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from cubes import KINDS, Governance, Kind, Origin, Sensitivity
from cubes.canonical import canonical_bytes
from engine.errors import Invalid
from engine.operations import MAX_TAG_CHARS, MAX_TAGS, MAX_TURN_CHARS, Remember
from engine.reader import Draft, draft_text
from engine.reader.checks import check_instant, check_text
from engine.reader.secrets import find_secrets
from engine.text.front_matter import Parted, part

DIGEST = "file"  # the field of metadata that holds the digest of the file's bytes
FRONT_MATTER = "front_matter"
DATES = ("date", "created", "occurred_at", "created_at")  # fields that date a note, the first that does
MAX_TITLE_CHARS = 256


@dataclass(frozen=True, slots=True)
class Note:
    """What a file says, and `remarks`: what its owner should know of how it was read."""

    digest: str
    request: Remember
    rules: Governance
    metadata: str
    remarks: tuple[str, ...] = ()

    def drafts(self, now: datetime) -> tuple[Draft, ...]:
        """The whole, then the pieces of a long one. Relative dates in the text count from `now`."""
        whole, *pieces = (
            replace(draft, origin=Origin.DOCUMENT, governance=self.rules) for draft in draft_text(self.request, now)
        )
        return replace(whole, metadata=self.metadata), *pieces


def file_digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_note(data: bytes, path: str) -> Note | None:
    """The note in a file's bytes; None: there is nothing in it.

    Raises:
        Invalid: it is no text that can be kept; the message says why.
    """
    text = _decoded(data)
    parted = part(text)
    if not parted.body.strip():
        return None
    _check(parted.body)
    digest, remarks = file_digest(data), list[str]()
    if parted.broken:
        remarks.append(f"{parted.broken}: it is kept as text")
    secret = next((found.name for found in find_secrets(text)), None)
    if secret is not None:
        remarks.append(f"it seems to hold a secret ({secret}): it is kept as secret")
    rules = Governance(sensitivity=Sensitivity.SECRET if secret else _sensitivity(parted.fields, remarks))
    request = Remember(
        content=parted.body,
        kind=_kind(parted.fields),
        tags=_tags(parted.fields, remarks),
        occurred_at=_date(parted.fields, remarks),
        source=path,
    )
    return Note(digest, request, rules, _metadata(parted, path, digest), tuple(remarks))


def _decoded(data: bytes) -> str:
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid("it is no text in UTF-8 or UTF-16") from error


def _check(text: str) -> None:
    try:
        check_text(text, "it", MAX_TURN_CHARS)
    except Invalid as error:
        raise Invalid(str(error).partition(":")[0]) from error


def _metadata(parted: Parted, path: str, digest: str) -> str:
    said: dict[str, Any] = {"title": _title(parted, path), DIGEST: digest}
    if parted.fields:
        said[FRONT_MATTER] = parted.fields
    return canonical_bytes(said).decode()


def _title(parted: Parted, path: str) -> str:
    """What a note is called: by its front matter, else by its first heading, else by its file."""
    title = parted.fields.get("title")
    if isinstance(title, str) and title.strip():
        return title.strip()[:MAX_TITLE_CHARS]
    for line in parted.body[:10_000].splitlines():
        if line.startswith("# ") and line[2:].strip():
            return line[2:].strip()[:MAX_TITLE_CHARS]
    return PurePosixPath(path).stem[:MAX_TITLE_CHARS]


def _kind(fields: Mapping[str, Any]) -> Kind:
    """Kind `document`, unless the note names another; a file is never a turn of a conversation."""
    said = fields.get("kind")
    return Kind(said) if said in KINDS and said != Kind.MESSAGE else Kind.DOCUMENT


def _sensitivity(fields: Mapping[str, Any], remarks: list[str]) -> Sensitivity:
    said = fields.get("sensitivity")
    if said is None:
        return Sensitivity.NORMAL
    if said in tuple(Sensitivity):
        return Sensitivity(said)
    remarks.append("its sensitivity is none that is known: it is kept as secret")
    return Sensitivity.SECRET


def _tags(fields: Mapping[str, Any], remarks: list[str]) -> tuple[str, ...]:
    said = fields.get("tags", fields.get("tag"))
    words = said if isinstance(said, list) else said.replace(",", " ").split() if isinstance(said, str) else []
    tags: dict[str, None] = {}
    for word in words:
        tag = str(word).strip().removeprefix("#")
        try:
            check_text(tag, "a tag", MAX_TAG_CHARS)
        except Invalid:
            continue
        tags[tag] = None
    if len(tags) > MAX_TAGS:
        remarks.append(f"it has more than {MAX_TAGS} tags: the others are kept in its metadata alone")
    return tuple(tags)[:MAX_TAGS]


def _date(fields: Mapping[str, Any], remarks: list[str]) -> datetime | None:
    for name in DATES:
        said = fields.get(name)
        if not isinstance(said, str):
            continue
        try:
            moment = datetime.fromisoformat(said.strip())
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
            check_instant(moment, name)
        except (ValueError, OverflowError, Invalid):
            remarks.append(f"its {name} is no date that is understood")
            continue
        return moment
    return None
