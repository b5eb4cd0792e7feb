"""The formats that there are, in the order in which a source is asked whether it is one: the particular ones first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import Invalid
from engine.formats import (
    basic_memory,
    chatgpt,
    claude,
    markdown,
    mcp_memory_service,
    mem0,
    openmemory,
    plain,
    server_memory,
    table_text,
)
from engine.formats.records import Found, Report
from engine.formats.source import Source


@dataclass(frozen=True, slots=True)
class Format:
    """`write` gives the pieces of a file; `write_files` the names and texts of a folder."""

    name: str
    what: str
    fits: Callable[[Source], bool]
    read: Callable[[Source, Report], Iterator[Found]]
    write: Callable[[Iterable[Mapping[str, Any]], Report], Iterator[str]] | None = None
    write_files: Callable[[Iterable[Mapping[str, Any]], Report], Iterator[tuple[str, str]]] | None = None


FORMATS: dict[str, Format] = {
    known.name: known
    for known in (
        Format("chatgpt", "ChatGPT's data export", chatgpt.fits, chatgpt.read),
        Format("claude", "Claude's data export", claude.fits, claude.read),
        Format("openmemory", "OpenMemory's backup", openmemory.fits, openmemory.read),
        Format(
            mcp_memory_service.NAME, "an export of mcp-memory-service", mcp_memory_service.fits, mcp_memory_service.read
        ),
        Format("mem0", "an export of mem0", mem0.fits, mem0.read),
        Format(
            server_memory.NAME,
            "the graph of the official memory server",
            server_memory.fits,
            server_memory.read,
            server_memory.write,
        ),
        Format("basic-memory", "a folder of basic-memory", basic_memory.fits, basic_memory.read),
        Format("jsonl", "one JSON object a line", plain.is_jsonl, plain.read_jsonl, plain.write_jsonl),
        Format("json", "a JSON array of objects", plain.is_json, plain.read_json),
        Format("csv", "a table", table_text.fits, table_text.read),
        Format("markdown", "Markdown files", markdown.fits, markdown.read, write_files=markdown.write),
    )
}


def recognise(source: Source) -> Format:
    """The format of a source.

    Raises:
        Invalid: it is none of them.
    """
    found = next((known for known in FORMATS.values() if known.fits(source)), None)
    if found is None:
        raise Invalid(f"{source.name} is in none of the formats {', '.join(FORMATS)}: if it is, name which")
    return found
