"""The daemon's log file: what happened, never what was remembered.

Rotated by size, readable by its owner alone. Our own messages hold ids and counts by house rule. Other libraries may
put what they were given into a message or an exception's text, so of theirs only the template, the exception's type
and the stack are written.
"""

from __future__ import annotations

import logging
import logging.handlers
import traceback
from pathlib import Path
from types import TracebackType

from engine.errors import MemosError

MAX_LOG_BYTES = 1 << 20
OLD_LOGS = 3
OURS = ("memos_mcp", "engine", "cubes")
TELLING = (MemosError, OSError, ImportError)  # exceptions whose text holds no content: by rule, or by nature

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class Discreet(logging.Formatter):
    """Writes no content, whoever logs it."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name.split(".", 1)[0] not in OURS:
            record = logging.makeLogRecord({**record.__dict__, "args": None})
        record.exc_text = None  # another handler may have cached the full text
        return super().format(record)

    def formatException(self, ei: ExcInfo) -> str:  # noqa: N802 -- the name is logging's
        kind, error, trace = ei
        if kind is None:
            return ""
        frames = "".join(traceback.format_tb(trace))
        text = f": {error}" if isinstance(error, TELLING) else ""
        return f"Traceback (most recent call last):\n{frames}{kind.__module__}.{kind.__qualname__}{text}"


def log_to_file(path: Path) -> logging.Handler:
    """Send all logging of this process to `path`. Only the owner of the data folder may: rotation renames files."""
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=MAX_LOG_BYTES, backupCount=OLD_LOGS, encoding="utf-8")
    path.chmod(0o600)
    handler.setFormatter(Discreet("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    return handler
