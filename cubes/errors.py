"""The errors of this package.

CubeError
└── MalformedCube   a header or payload that breaks the rules of a MemCube
"""

from __future__ import annotations


class CubeError(Exception):
    """Base of everything that this package raises."""


class MalformedCube(CubeError, ValueError):
    """A value that no MemCube may hold: the message names the field and the rule."""
