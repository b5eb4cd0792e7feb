"""Who made a bundle: Ed25519 signatures over its manifest, and policies that say whose are trusted.

The manifest has the digest of every member, so its signature covers the whole file. A private key lies in a file of its
own that only its owner reads; it is never printed. Algorithm: RFC 8032, by the `cryptography` package.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cubes import fields
from cubes.canonical import json_bytes
from cubes.errors import MalformedCube, UntrustedBundle, WrongKey
from cubes.private import read_private, write_private

ALGORITHM = "ed25519"
DOMAIN = b"memcube/1 manifest\n"  # before what is signed: a signature of something else never fits
KEY_PREFIX = "memcube-ed25519:"
_KEY_BYTES, _SIGNATURE_BYTES = 32, 64
_DEPTH = 1


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies. `str()` is its text form, which `parse` reads."""

    raw: bytes

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Raises `WrongKey` where the text is no public key."""
        raw = _decoded(text.removeprefix(KEY_PREFIX), _KEY_BYTES) if text.startswith(KEY_PREFIX) else None
        if raw is None:
            raise WrongKey(f"a public key has the form {KEY_PREFIX}<base64>: `cube key` prints yours")
        return cls(raw)

    def __str__(self) -> str:
        return KEY_PREFIX + base64.b64encode(self.raw).decode("ascii")

    @property
    def fingerprint(self) -> str:
        """Short, for people to compare: the first 8 bytes of the SHA-256 of the key."""
        return hashlib.sha256(self.raw).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs. It never shows its secret."""

    _private: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> PublicKey:
        raw = self._private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return PublicKey(raw)

    def sign(self, manifest: bytes, domain: bytes = DOMAIN) -> bytes:
        """The content of `signature.json` for a manifest of these bytes, or for what another `domain` names."""
        return json_bytes(
            {
                "algorithm": ALGORITHM,
                "key": base64.b64encode(self.public.raw).decode("ascii"),
                "signature": base64.b64encode(self._private.sign(domain + manifest)).decode("ascii"),
            }
        )


def create_signing_key(path: Path) -> SigningKey:
    """Make a key and keep it in a new file of mode 0600 (PKCS #8, PEM).

    Raises:
        UnusableFile: something is there already, or it cannot be written.
    """
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(path, pem)
    return SigningKey(private)


def load_signing_key(path: Path) -> SigningKey:
    """The key in that file.

    Raises:
        UnusableFile: it is missing, or others may read it.
        WrongKey: it holds no Ed25519 private key.
    """
    pem = read_private(path)
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise WrongKey(f"{path} holds no signing key: `cube key` makes one") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise WrongKey(f"{path} holds a key of another kind than Ed25519: `cube key` makes one")
    return SigningKey(private)


def verify(manifest: bytes, signature: bytes, domain: bytes = DOMAIN) -> PublicKey:
    """Who signed a manifest of these bytes (or what another `domain` names), by the content of `signature.json`.

    Raises:
        MalformedCube: that is no signature of this format.
        UntrustedBundle: the signature is false.
    """
    record = fields.parse(signature, _DEPTH)
    found = fields.mapping(record, "the signature", {"algorithm", "key", "signature"})
    if found["algorithm"] != ALGORITHM:
        raise MalformedCube(f"the signature's algorithm is not {ALGORITHM}")
    key, made = _decoded(found["key"], _KEY_BYTES), _decoded(found["signature"], _SIGNATURE_BYTES)
    if key is None or made is None or json_bytes(found) != signature:
        raise MalformedCube("the signature is not in canonical form")
    signer = PublicKey(key)
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(made, domain + manifest)
    except (InvalidSignature, ValueError):
        raise UntrustedBundle(
            f"its signature by {signer.fingerprint} is false: it was changed after it was signed"
        ) from None
    return signer


def _decoded(text: object, length: int) -> bytes | None:
    """Bytes of one length out of base64 in its one form, else None."""
    if not isinstance(text, str):
        return None
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == length and base64.b64encode(raw).decode("ascii") == text else None


# --- trust ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signature:
    """A true signature: whose, and under which name that key is known here (None: it is not)."""

    key: PublicKey
    known_as: str | None = None

    @property
    def known(self) -> bool:
        return self.known_as is not None


class Trust(Protocol):
    """Whose bundles are accepted."""

    def judge(self, signer: PublicKey | None) -> Signature | None:
        """What is known of who signed (None: nobody did).

        Raises:
            UntrustedBundle: it is not accepted; the message names why, and the remedy.
        """


@dataclass(frozen=True, slots=True)
class Anyone:
    """Accepts everything, and says what is known. `keys`: names of the keys that are known."""

    keys: Mapping[PublicKey, str] = field(default_factory=dict)

    def judge(self, signer: PublicKey | None) -> Signature | None:
        return None if signer is None else Signature(signer, self.keys.get(signer))


@dataclass(frozen=True, slots=True)
class Signed:
    """Refuses what nobody signed."""

    keys: Mapping[PublicKey, str] = field(default_factory=dict)

    def judge(self, signer: PublicKey | None) -> Signature:
        if signer is None:
            raise UntrustedBundle("it is not signed, and unsigned bundles are refused here")
        return Signature(signer, self.keys.get(signer))


@dataclass(frozen=True, slots=True)
class Known:
    """Refuses what none of these keys signed."""

    keys: Mapping[PublicKey, str]

    def judge(self, signer: PublicKey | None) -> Signature:
        signature = Signed(self.keys).judge(signer)
        if not signature.known:
            raise UntrustedBundle(
                f"it is signed by the unknown key {signature.key.fingerprint}: trust the key if you know whose it is"
            )
        return signature


ANYONE = Anyone()
