"""What a person sees in a terminal: lines, tables, a progress bar, a question.

Knows nothing of memory or of the daemon. What must stay true: text that came from a memory is shown, never obeyed
(control characters are made visible, so that a stored escape sequence cannot drive the terminal); results go to
standard output, everything else to standard error; when nobody watches, no bar is drawn and no question asked.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TextIO

MIN_LAST_COLUMN = 24
UNBOUNDED = 1_000_000
BAR_CHARS = 28
REDRAW_EVERY_S = 0.1
GAP = "  "
# Invisible characters that reorder or hide what follows them.
DISGUISES = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def harmless(text: str, *, keep: str = "\n") -> str:
    """The text with control characters written out (`\\x1b`), except those in `keep`."""
    return "".join(_shown(char) if char not in keep else char for char in text)


def _shown(char: str) -> str:
    if char == "\t":
        return "    "
    if unicodedata.category(char) in ("Cc", "Cs") or char in DISGUISES:
        return char.encode("unicode_escape").decode("ascii")
    return char


def width(text: str) -> int:
    """How many terminal cells the text takes."""
    cells = 0
    for char in text:
        if not unicodedata.combining(char):
            cells += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    return cells


def wrapped(text: str, columns: int) -> list[str]:
    """The text in lines of at most `columns` cells, cut at spaces where there are any."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            candidate = f"{line} {word}" if line else word
            if width(candidate) <= columns:
                line = candidate
                continue
            if line:
                lines.append(line)
            while width(word) > columns:
                head = _head(word, columns)
                lines.append(head)
                word = word[len(head) :]
            line = word
        lines.append(line)
    return lines


def _head(word: str, columns: int) -> str:
    cells = 0
    for index, char in enumerate(word):
        cells += width(char)
        if cells > columns:
            return word[: max(index, 1)]
    return word


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], columns: int) -> list[str]:
    """Rows under headings, the last column wrapped to what the terminal leaves; nothing is cut off."""
    cells = [[harmless("" if value is None else str(value)) for value in row] for row in rows]
    last = len(headings) - 1
    widths = [
        max([width(headings[i]), *(max(width(line) for line in row[i].split("\n")) for row in cells)])
        for i in range(last)
    ]
    left = max(columns - sum(widths) - len(GAP) * last, MIN_LAST_COLUMN)
    lines = [_row([*headings[:last], headings[last]], widths)]
    for row in cells:
        columns_of_row = [*(cell.split("\n") for cell in row[:last]), wrapped(row[last], left)]
        for index in range(max(len(column) for column in columns_of_row)):
            parts = [column[index] if index < len(column) else "" for column in columns_of_row]
            lines.append(_row(parts, widths))
    return lines


def _row(parts: Sequence[str], widths: Sequence[int]) -> str:
    padded = [part + " " * (cells - width(part)) for part, cells in zip(parts, widths, strict=False)]
    return GAP.join([*padded, parts[-1]]).rstrip()


@dataclass(frozen=True, slots=True)
class Screen:
    """Where results and remarks go. `as_json`: a program reads standard output, people's
    tables are left out."""

    out: TextIO
    err: TextIO
    as_json: bool = False
    verbose: bool = False

    @property
    def columns(self) -> int:
        """How wide a table may be. What goes into a file or a pipe stays one row a line, for `grep`."""
        return shutil.get_terminal_size().columns if self.out.isatty() else UNBOUNDED

    def line(self, text: str = "") -> None:
        self.out.write(harmless(text) + "\n")

    def remark(self, text: str) -> None:
        """One line on standard error: what a program that reads the results must not find among them."""
        self.out.flush()
        self.err.write(harmless(text, keep="") + "\n")
        self.err.flush()

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        for line in table(headings, rows, self.columns):
            self.out.write(line + "\n")

    def json(self, value: Any) -> None:
        self.out.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")

    def ask(self, question: str) -> bool:
        """A yes or no from a person; no when nobody is there to answer."""
        if not interactive():
            return False
        self.err.write(f"{harmless(question)} [y/N] ")
        self.err.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def bar(self, what: str) -> Bar:
        return Bar(self.err, what)


def interactive() -> bool:
    """Whether a person sits at both ends."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


class Bar:
    """A progress bar on standard error, drawn only on a terminal; used as `with screen.bar("import") as bar`."""

    def __init__(self, stream: TextIO, what: str) -> None:
        self._stream = stream
        self._what = what
        self._drawn_at = 0.0
        self._drawn = False
        self._visible = stream.isatty()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def __call__(self, done: float, total: float | None, message: str = "") -> None:
        """Show that `done` of `total` is done; calls in quick succession are drawn once."""
        now = time.monotonic()
        if not self._visible or now - self._drawn_at < REDRAW_EVERY_S:
            return
        self._drawn_at, self._drawn = now, True
        self._stream.write("\r\x1b[K" + harmless(self._text(done, total, message), keep=""))
        self._stream.flush()

    def _text(self, done: float, total: float | None, message: str) -> str:
        if not total:
            return f"{self._what}: {done:,.0f} {message}"
        share = min(max(done / total, 0.0), 1.0)
        filled = round(share * BAR_CHARS)
        return f"{self._what} [{'#' * filled}{'.' * (BAR_CHARS - filled)}] {share:4.0%} {message}"
