"""The errors of this package.

CubeError
├── MalformedCube      a value that breaks the rules of a MemCube: the message names the place, the field and the rule
├── DamagedBundle      no bundle, or its bytes are not those that its maker wrote: cut short, changed, something added
├── UnsupportedBundle  a bundle of another version of the format: the message says which, and what to do
├── TooLargeBundle     a bound of the format is passed: see `cubes.limits`
├── UntrustedBundle    its signature is false, or is not one that the trust policy asks for
├── WrongKey           no passphrase or identity that was given opens it, or a key is no key
└── UnusableFile       a file that is missing, in the way, no file at all, or open to others where it must be private

A message is one line. It never holds content, a key that is secret, or a passphrase.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class CubeError(Exception):
    """Base of everything that this package raises."""


class MalformedCube(CubeError, ValueError):
    """A value that no MemCube may hold: the message names the field and the rule."""


class DamagedBundle(CubeError):
    """Not a bundle, or not what its maker wrote."""


class UnsupportedBundle(CubeError):
    """Of a version of the format that this release does not read."""


class TooLargeBundle(CubeError):
    """More than a bundle may hold."""


class UntrustedBundle(CubeError):
    """Its signature is false, or not one that is asked for."""


class WrongKey(CubeError):
    """The keys that were given do not open it, or are no keys."""


class UnusableFile(CubeError):
    """A file that cannot be used as it stands."""


@contextmanager
def named(place: str) -> Iterator[None]:
    """Put the place before the message of what is raised inside, once."""
    try:
        yield
    except CubeError as error:
        if str(error).startswith(f"{place}: "):
            raise
        raise type(error)(f"{place}: {error}") from error
