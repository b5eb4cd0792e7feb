"""Files of other programs, read as plain records and written from them. Pure: no vault, no network.

One module a format; `FORMATS` is the table of them. A reader gives records one by one and reports what it cannot carry.
"""

from engine.formats.records import Found, Left, Report
from engine.formats.source import Source, of_bytes, opened, piped
from engine.formats.table import FORMATS, Format, recognise

__all__ = ["FORMATS", "Format", "Found", "Left", "Report", "Source", "of_bytes", "opened", "piped", "recognise"]
