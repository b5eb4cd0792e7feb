"""Sealing with AES: what the vault stores is unreadable without the store's data key.

Values are AES-256-GCM with a random 96-bit nonce and the value's place as associated data; names, which are compared,
are AES-SIV, where equal names give equal results; files are AES-256-GCM in pieces, numbered and with the last one
marked (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár, 2015, as in age), under a key of their own.
The three keys are derived from the data key with HKDF.

Does not know where the data key comes from (`engine.vault.key_source`). What must stay true: no key is shown by `repr`,
in a message or in a log; whatever does not open is `Corrupt`, with its place and nothing of what it says.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from engine.errors import Corrupt, Invalid
from engine.vault.sealing import CHUNK_BYTES

KEY_BYTES = 32
NONCE_BYTES = 12  # random ones do not meet before 2**32 values are sealed under one key
TAG_BYTES = 16
COUNTER_BYTES = NONCE_BYTES - 1  # of a file's pieces; the last byte of the nonce marks the final piece
SEALED_SUFFIX = ".sealed"
MAGIC = b"memos sealed 1\n"
SALT_BYTES = 32


class AesSealer:
    """Seals and opens under one data key. Safe to use from many threads."""

    plain = False
    suffix = SEALED_SUFFIX

    def __init__(self, data_key: bytes) -> None:
        self._values = AESGCM(_derived(data_key, b"values"))
        self._names = AESSIV(_derived(data_key, b"names", 2 * KEY_BYTES))
        self._files = _derived(data_key, b"files")

    def __repr__(self) -> str:
        return "AesSealer()"

    # --- values ------------------------------------------------------------------------------------------------

    def text(self, value: str, place: str) -> str:
        return base64.b64encode(self.blob(_encoded(value), place)).decode("ascii")

    def read_text(self, stored: str, place: str) -> str:
        return self.read_blob(_decoded(stored, place), place).decode("utf-8")

    def blob(self, value: bytes, place: str) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._values.encrypt(nonce, value, place.encode("utf-8"))

    def read_blob(self, stored: bytes, place: str) -> bytes:
        if len(stored) < NONCE_BYTES + TAG_BYTES:
            raise _does_not_open(place)
        try:
            return self._values.decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], place.encode("utf-8"))
        except InvalidTag:
            raise _does_not_open(place) from None

    def name(self, value: str) -> str:
        # A byte in front: SIV does not take an empty value.
        return base64.b64encode(self._names.encrypt(b"=" + _encoded(value), None)).decode("ascii")

    def read_name(self, stored: str) -> str:
        try:
            return self._names.decrypt(_decoded(stored, "name"), None)[1:].decode("utf-8")
        except (InvalidTag, ValueError):
            raise _does_not_open("name") from None

    # --- files -------------------------------------------------------------------------------------------------

    def seal_file(self, content: Iterable[bytes], target: BinaryIO, place: str) -> None:
        salt = os.urandom(SALT_BYTES)
        key = AESGCM(_derived(self._files, salt))
        target.write(MAGIC + salt)
        for number, (piece, final) in enumerate(_pieces(content)):
            target.write(key.encrypt(_counted(number, final), piece, place.encode("utf-8")))

    def open_file(self, source: BinaryIO, place: str) -> Iterator[bytes]:
        head = source.read(len(MAGIC) + SALT_BYTES)
        if len(head) != len(MAGIC) + SALT_BYTES or not head.startswith(MAGIC):
            raise _does_not_open(place)
        key = AESGCM(_derived(self._files, head[len(MAGIC) :]))
        number, sealed = 0, source.read(CHUNK_BYTES + TAG_BYTES)
        while True:
            behind = source.read(CHUNK_BYTES + TAG_BYTES)
            try:
                yield key.decrypt(_counted(number, not behind), sealed, place.encode("utf-8"))
            except InvalidTag:
                raise _does_not_open(place) from None
            if not behind:
                return
            number, sealed = number + 1, behind


def _derived(key: bytes, purpose: bytes, length: int = KEY_BYTES) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=b"memos-mcp vault 1: " + purpose).derive(key)


def _encoded(value: str) -> bytes:
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError:
        raise Invalid("a text of the request holds a lone surrogate: take it out and send it again") from None


def _decoded(stored: str, place: str) -> bytes:
    try:
        return base64.b64decode(stored, validate=True)
    except (binascii.Error, ValueError):
        raise _does_not_open(place) from None


def _does_not_open(place: str) -> Corrupt:
    return Corrupt(
        f"the sealed value {place!r} does not open: it was damaged, changed or moved; "
        "run `memos-mcp doctor`, which names the last good backup"
    )


def _pieces(content: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Pieces of `CHUNK_BYTES`, the last one shorter or as long, and marked; an empty file is one empty piece."""
    waiting = bytearray()
    for part in content:
        waiting += part
        while len(waiting) > CHUNK_BYTES:
            yield bytes(waiting[:CHUNK_BYTES]), False
            del waiting[:CHUNK_BYTES]
    yield bytes(waiting), True


def _counted(number: int, final: bool) -> bytes:
    return number.to_bytes(COUNTER_BYTES, "big") + bytes([final])
