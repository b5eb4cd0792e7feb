"""What a shelf says of one bundle: an entry, its JSON, and the names of things on a shelf.

Entries never change once they are written. They come from whoever can write to the shelf: they are parsed strictly,
within bounds, and only describe; what a bundle is, and who signed it, is found out from the bundle itself.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from engine.cube_operations import MAX_DESCRIPTION_CHARS, MAX_LICENCE_CHARS
from engine.errors import Corrupt, Invalid
from engine.operations import MAX_CUBE_NAME_CHARS
from engine.parts import check_cube_name

FORMAT: Literal["memos-shelf-entry"] = "memos-shelf-entry"
MAX_ENTRY_BYTES = 64_000
MAX_BUNDLE_BYTES = 64 * 2**30
MAX_ENTRIES = 100_000
DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_PLAIN = re.compile(r"[A-Za-z0-9_-]")

Count = Annotated[int, Field(ge=0, le=2**53)]
Short = Annotated[str, Field(max_length=256)]


class Entry(BaseModel):
    """One bundle on a shelf. `sha256` is of the file; `signed_by` is what the publisher's program found in it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    format: Literal["memos-shelf-entry"] = FORMAT
    version: Literal[1] = 1
    name: Annotated[str, Field(min_length=1, max_length=MAX_CUBE_NAME_CHARS)]
    sha256: Annotated[str, Field(pattern=DIGEST.pattern.replace(r"\Z", "$"))]
    size_bytes: Annotated[int, Field(gt=0, le=MAX_BUNDLE_BYTES)]
    memories: Count = 0
    versions: Count = 0
    artifacts: Count = 0
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION_CHARS)] = ""
    licence: Annotated[str, Field(max_length=MAX_LICENCE_CHARS)] = ""
    embedder: Short | None = None
    redacted: Short | None = None
    encrypted: bool = False  # then no more is said of it than this, its name and its size
    signed_by: Short | None = None
    origin_store: Short = ""
    origin_cube: Annotated[str, Field(max_length=MAX_CUBE_NAME_CHARS)] = ""
    published_at: Annotated[AwareDatetime, Field(strict=False)]

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        try:
            check_cube_name(name)
        except Invalid as error:
            raise ValueError(str(error)) from error
        return name

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.sha256

    @property
    def bundle(self) -> tuple[str, str, str]:
        """The path of the bundle on its shelf."""
        return bundle_place(self.name, self.sha256)

    @property
    def place(self) -> tuple[str, str, str]:
        """The path of the entry on its shelf."""
        return entry_place(self.name, self.sha256)

    def to_bytes(self) -> bytes:
        return _json(self.model_dump(mode="json"))


def bundle_place(name: str, sha256: str) -> tuple[str, str, str]:
    """The path of a bundle on its shelf."""
    return "bundles", folder_of(name), f"{sha256}.memcube"


def entry_place(name: str, sha256: str) -> tuple[str, str, str]:
    """The path of an entry on its shelf."""
    return "entries", folder_of(name), f"{sha256}.json"


def newest_first(entries: list[Entry]) -> list[Entry]:
    """By name, and of one name the newest first."""
    return sorted(entries, key=lambda entry: (entry.name, -_seconds(entry.published_at), entry.sha256))


def _seconds(moment: datetime) -> float:
    return moment.timestamp()


def read_entry(raw: bytes, where: str) -> Entry:
    """Raises `Corrupt` where the bytes are no entry."""
    try:
        return Entry.model_validate_json(raw)
    except ValidationError as error:
        raise Corrupt(f"{where} is no entry of a shelf ({_first(error)}): publish the bundle again") from error


def index_bytes(entries: list[Entry]) -> bytes:
    """What `index.json` says."""
    listed = [entry.model_dump(mode="json") for entry in newest_first(entries)]
    return _json({"format": "memos-shelf", "version": 1, "entries": listed})


def read_index(raw: bytes, where: str) -> list[Entry]:
    """The entries of an index; those that break a rule are left out. Raises `Corrupt` where it is no index at all."""
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError):
        said = None
    listed = said.get("entries") if isinstance(said, dict) and said.get("format") == "memos-shelf" else None
    if not isinstance(listed, list) or len(listed) > MAX_ENTRIES:
        raise Corrupt(f"{where} is no index of a shelf: publish to it again, or check the address")
    found = []
    for item in listed:
        try:
            found.append(Entry.model_validate_json(json.dumps(item)))
        except ValidationError:
            continue
    return found


def folder_of(name: str) -> str:
    """A cube's name as one part of a path or URL, whatever it holds: other characters than plain ones as `=XX`."""
    return "".join(c if _PLAIN.match(c) else "".join(f"={byte:02X}" for byte in c.encode()) for c in name)


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1) + "\n").encode()


def _first(error: ValidationError) -> str:
    found = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in found["loc"])
    return f"{where}: {found['type']}" if where else found["type"]
