"""The samples, as files, folders, zips and pipes."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from engine.formats import FORMATS, Found, Report, opened, recognise

SAMPLES = Path(__file__).parent / "samples"


def zipped(folder: Path, target: Path, inside: str = "") -> Path:
    """A folder as a zip file, as a download would be."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, inside + path.relative_to(folder).as_posix())
    return target


def read(path: Path, name: str | None = None) -> tuple[str, list[Found], list[tuple[str, str, int]]]:
    """Name of the format, what was found, and what was left: what, why, how many."""
    report = Report()
    with opened(path) as source:
        format_ = recognise(source) if name is None else FORMATS[name]
        found = list(format_.read(source, report))
    return format_.name, found, [(entry.what, entry.why, entry.count) for entry in report.left]


def records(path: Path, name: str | None = None) -> list[dict[str, Any]]:
    return [found.record for found in read(path, name)[1]]


def contents(path: Path, name: str | None = None) -> list[str]:
    return [record["content"] for record in records(path, name)]
