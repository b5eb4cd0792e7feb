"""The version of this code, for processes that must not pay for reading package metadata."""

VERSION = "0.1.0"


def version_key(version: str) -> tuple[int, ...]:
    """Versions compared by their numbers; what follows the numbers (`1.2.0rc1`) counts as the number before it."""
    numbers = []
    for part in version.split("."):
        digits = "".join(c for c in part if c in "0123456789")
        numbers.append(int(digits) if digits and part[0].isdigit() else 0)
    return tuple(numbers)
