"""An age file under a passphrase, for the few bytes of an identity.

`pyrage` makes such files too, but at a cost that it tunes to the machine: a gigabyte of memory where that is fast. Here
the cost is fixed, so that packing stays within its bounds everywhere. The file is that of the age specification
(https://age-encryption.org/v1, recipient type `scrypt`), and any age tool opens it.
"""

from __future__ import annotations

import base64
import re
import secrets

import pyrage
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from cubes.errors import DamagedBundle, TooLargeBundle, WrongKey
from cubes.limits import MAX_SCRYPT_LOG_N

LOG_N = 17  # 128 MB and half a second for each guess: the first choice of OWASP's Password Storage Cheat Sheet
_INTRO = b"age-encryption.org/v1\n"
_LABEL = b"age-encryption.org/v1/scrypt"
_CHUNK_BYTES = 64 * 1024
_STANZA = re.compile(rb"age-encryption\.org/v1\n-> scrypt [A-Za-z0-9+/]{22} ([1-9][0-9]?)\n[A-Za-z0-9+/]{43}\n--- ")


def lock(secret: bytes, passphrase: str) -> bytes:
    """An age file of at most one chunk that the passphrase opens."""
    if len(secret) > _CHUNK_BYTES:
        raise ValueError("only short secrets are locked with a passphrase")
    file_key, salt, nonce = (secrets.token_bytes(16) for _ in range(3))
    wrapping = Scrypt(salt=_LABEL + salt, length=32, n=1 << LOG_N, r=8, p=1).derive(passphrase.encode())
    wrapped = ChaCha20Poly1305(wrapping).encrypt(bytes(12), file_key, None)
    header = _INTRO + b"-> scrypt %b %d\n%b\n---" % (_text(salt), LOG_N, _text(wrapped))
    mac = hmac.HMAC(_derived(file_key, b"", b"header"), hashes.SHA256())
    mac.update(header)
    last_chunk = bytes(11) + b"\x01"
    payload = ChaCha20Poly1305(_derived(file_key, nonce, b"payload")).encrypt(last_chunk, secret, None)
    return header + b" " + _text(mac.finalize()) + b"\n" + nonce + payload


def unlock(locked: bytes, passphrase: str) -> bytes:
    """What `lock` was given.

    Raises:
        WrongKey: the passphrase is another one.
        DamagedBundle: it is no age file under a passphrase.
        TooLargeBundle: to open it would take more memory than is given to that.
    """
    stanza = _STANZA.match(locked)
    if stanza is None:
        raise DamagedBundle("its identity is no age file under a passphrase")
    log_n = int(stanza[1])
    if log_n > MAX_SCRYPT_LOG_N:
        raise TooLargeBundle(f"to open its identity would take 2^{log_n} KiB: at most 2^{MAX_SCRYPT_LOG_N} are allowed")
    try:
        return bytes(pyrage.passphrase.decrypt(locked, passphrase))
    except (pyrage.DecryptError, OSError):
        raise WrongKey("the passphrase does not open it, or its identity was changed") from None


def _derived(key: bytes, salt: bytes, label: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=label).derive(key)


def _text(raw: bytes) -> bytes:
    """base64 without padding, as age has it."""
    return base64.b64encode(raw).rstrip(b"=")
