"""The version of this code, for processes that must not pay for reading package metadata."""

from itertools import takewhile

VERSION = "0.4.0"


def version_key(version: str) -> tuple[int, ...]:
    """Versions compared by their numbers; what follows a number (`0rc1`) does not count."""
    leading = ("".join(takewhile(str.isdecimal, part)) for part in version.split("."))
    return tuple(int(digits or 0) for digits in leading)
