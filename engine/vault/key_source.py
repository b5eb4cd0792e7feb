"""Where the key of an encrypted store comes from: the platform's keyring, or a passphrase file.

The store's random data key stands in the vault's `meta`, wrapped with AES-256-GCM by a key that stands elsewhere: a
random one in the keyring (service `memos-mcp`, user: the store's id), or one that scrypt makes of a passphrase. The
wrapped key goes with every backup; `<data>/encryption.json` only says which file holds the passphrase, and
`MEMOS_KEY_FILE` overrides it.

What must stay true: a key that does not fit, or is not to be had, is one clear error and changes nothing; keys and
passphrases are in no message, log, argument or environment; a keyring that keeps secrets readable is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from cubes import MalformedCube
from cubes.canonical import canonical_bytes
from engine.errors import Invalid, MemosError, NotAllowed, Unavailable
from engine.files import sync_file, sync_folder
from engine.settings import Settings
from engine.vault.aes import KEY_BYTES, NONCE_BYTES

SERVICE = "memos-mcp"
FORMAT = 1
SALT_BYTES = 16
MIN_PASSPHRASE_BYTES = 8
MAX_PASSPHRASE_BYTES = 4096
MAX_WORK = 1 << 20  # of a record that somebody may have edited: 1 GiB of memory
SECURE = 1.0  # the keyring library's own mark: backends below it keep no secrets


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file that holds a passphrase."""

    path: Path

    name = "passphrase"


@dataclass(frozen=True, slots=True)
class PlatformKeyring:
    """The platform's keyring."""

    name = "keyring"


KeySource = KeyFile | PlatformKeyring


@dataclass(frozen=True, slots=True)
class Work:
    """What scrypt costs: 128 * n * r bytes of memory, p times (RFC 7914; OWASP's first choice)."""

    n: int = 1 << 17
    r: int = 8
    p: int = 1


# --- wrapping -------------------------------------------------------------------------------------------------------


def wrap(data_key: bytes, source: KeySource, store: str, work: Work = Work()) -> str:
    """The record for the vault: the data key, wrapped by a key from `source`.

    Raises:
        NotAllowed, Unavailable, Invalid: the source cannot be used; nothing was changed.
    """
    record: dict[str, Any] = {"format": FORMAT, "source": source.name, "store": store}
    if isinstance(source, KeyFile):
        salt = os.urandom(SALT_BYTES)
        record |= {"salt": _word(salt), "n": work.n, "r": work.r, "p": work.p}
        key = _stretched(passphrase(source.path), record)
    else:
        key = _keyring_key(store, make=True)
    nonce = os.urandom(NONCE_BYTES)
    record["wrapped"] = _word(nonce + AESGCM(key).encrypt(nonce, data_key, canonical_bytes(record)))
    return json.dumps(record | {"digest": _digest(record)}, sort_keys=True)


def unwrap(stored: str, settings: Settings) -> bytes:
    """The data key, by the key from where the store's keys are said to be.

    Raises:
        NotAllowed: the passphrase or the keyring's key is another one, or others can read the passphrase file.
        Unavailable: the key cannot be had, or the record was edited.
    """
    record = _checked(stored, settings)
    if record["source"] == PlatformKeyring.name:
        return _opened(record, _keyring_key(record["store"], make=False), "the key in the keyring")
    refusal: MemosError | None = None
    for path in key_files(settings):
        try:
            return _opened(record, _stretched(passphrase(path), record), f"the passphrase in {path}")
        except (NotAllowed, Unavailable, Invalid) as error:
            refusal = refusal or error
    raise refusal or Unavailable(
        f"the store in {settings.data} is encrypted with a passphrase: set MEMOS_KEY_FILE to the file that holds it"
    )


def _opened(record: dict[str, Any], key: bytes, what: str) -> bytes:
    raw = _raw(record["wrapped"])
    rest = {name: value for name, value in record.items() if name != "wrapped"}
    try:
        return AESGCM(key).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], canonical_bytes(rest))
    except InvalidTag:
        raise NotAllowed(f"{what} is not the one of this store; nothing was changed") from None


def _checked(stored: str, settings: Settings) -> dict[str, Any]:
    """The record without its digest, if it is as it was written."""
    try:
        record: dict[str, Any] = json.loads(stored)
        digest = record.pop("digest")
        if digest != _digest(record) or record["format"] != FORMAT:
            raise ValueError
        if record["source"] != PlatformKeyring.name:
            sizes = [record[name] for name in ("n", "r", "p")]
            if not all(isinstance(size, int) and size > 0 for size in sizes) or sizes[0] * sizes[1] > MAX_WORK * 8:
                raise ValueError
            _raw(record["salt"])
        _raw(record["wrapped"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MalformedCube):
        raise Unavailable(
            f"the wrapped key of the store in {settings.data} was edited or is of a newer memos-mcp: upgrade it, or "
            "put a backup back with `memos-mcp restore-backup FILE`; nothing was changed"
        ) from None
    return record


def _digest(record: dict[str, Any]) -> str:
    """Tells an edited record from a wrong key; whoever edits this too gets the message of a wrong key."""
    return hashlib.sha256(canonical_bytes(record)).hexdigest()


def _word(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _raw(word: str) -> bytes:
    return base64.b64decode(word, validate=True)


# --- the passphrase file --------------------------------------------------------------------------------------------


def passphrase(path: Path) -> bytes:
    """What the file says, without its trailing newline.

    Raises:
        Unavailable: it is not there or cannot be read.
        NotAllowed: others can read it.
        Invalid: it is empty, too short or too long.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_PASSPHRASE_BYTES + 2)
    except OSError as error:
        raise Unavailable(
            f"the passphrase file {path} cannot be read ({error.strerror}): put it back, or set MEMOS_KEY_FILE to it"
        ) from error
    if sys.platform != "win32" and stat.S_IMODE(mode) & 0o077:
        raise NotAllowed(f"others may read the passphrase file {path}: chmod 600 '{path}'")
    content = content.removesuffix(b"\n").removesuffix(b"\r")
    if not MIN_PASSPHRASE_BYTES <= len(content) <= MAX_PASSPHRASE_BYTES:
        raise Invalid(
            f"the passphrase in {path} must have {MIN_PASSPHRASE_BYTES} to {MAX_PASSPHRASE_BYTES} bytes: "
            "`openssl rand -base64 32` makes a good one"
        )
    return content


def _stretched(secret: bytes, record: dict[str, Any]) -> bytes:
    salt, n, r, p = _raw(record["salt"]), record["n"], record["r"], record["p"]
    try:
        return Scrypt(salt=salt, length=KEY_BYTES, n=n, r=r, p=p).derive(secret)
    except (ValueError, MemoryError) as error:
        raise Unavailable(f"scrypt cannot be run with n={n}, r={r}, p={p} here: it needs more memory") from error


# --- the keyring ----------------------------------------------------------------------------------------------------


def _keyring_key(store: str, *, make: bool) -> bytes:
    """The key of a store in the platform's keyring. One that is there is never replaced: backups may need it."""
    import keyring  # here: it looks for its backends, which takes a while, and few stores need it
    from keyring.errors import KeyringError

    found = keyring.get_keyring()
    backend = _secure(found)
    instead = "use a passphrase file instead: `memos-mcp encrypt --passphrase-file FILE`"
    if backend is None:
        kind = type(found).__module__
        raise Unavailable(f"this machine has no keyring that keeps secrets safe (found: {kind}): {instead}")
    try:
        word = backend.get_password(SERVICE, store)
        if word is None and make:
            word = _word(os.urandom(KEY_BYTES))
            backend.set_password(SERVICE, store, word)
            if backend.get_password(SERVICE, store) != word:
                raise Unavailable(f"the keyring does not keep what it was given: {instead}")
    except KeyringError as error:
        raise Unavailable(
            f"the keyring cannot be used ({type(error).__name__}): unlock it and try again, or {instead}"
        ) from error
    if word is None:
        raise Unavailable(
            f"the keyring has no key for this store (service {SERVICE}, user {store}): open the keyring that it was "
            "encrypted with, or put back a backup whose key you have"
        )
    try:
        key = _raw(word)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise NotAllowed(f"the key in the keyring is not the one of this store (service {SERVICE}, user {store})")
    return key


def _secure(backend: Any) -> Any | None:
    """The backend, if it keeps secrets; of several in a chain the first one that does."""
    if type(backend).__module__.startswith("keyrings.alt"):  # files, some of them readable
        return None
    members = getattr(backend, "backends", None)
    if members is not None:
        return next((member for member in members if _secure(member) is not None), None)
    try:
        return backend if float(backend.priority) >= SECURE else None
    except (RuntimeError, TypeError, AttributeError):
        return None


# --- where it is said -----------------------------------------------------------------------------------------------


def note_source(settings: Settings, source: KeySource, before: tuple[Path, ...] = ()) -> None:
    """Say in `<data>/encryption.json` where the key is; `before`: where it was until what is under way is done."""
    noted: dict[str, object] = {"source": source.name}
    if isinstance(source, KeyFile):
        noted["path"] = str(source.path)
    if before:
        noted["before"] = [str(path) for path in before]
    path = settings.encryption_note
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(noted) + "\n")
    sync_file(temporary)
    os.replace(temporary, path)
    sync_folder(path.parent)


def forget_source(settings: Settings) -> None:
    settings.encryption_note.unlink(missing_ok=True)


def key_files(settings: Settings) -> tuple[Path, ...]:
    """Files that may hold the passphrase; the first one is what a person is told about."""
    return (settings.key_file,) if settings.key_file is not None else noted_files(settings)


def noted_files(settings: Settings) -> tuple[Path, ...]:
    """The passphrase files that `<data>/encryption.json` names."""
    noted = _noted(settings)
    return tuple(Path(path) for path in [*([noted["path"]] if "path" in noted else []), *noted.get("before", ())])


def settle_source(settings: Settings) -> None:
    """The file that held the key before need not be known any more."""
    noted = _noted(settings)
    if "before" in noted:
        note_source(settings, KeyFile(Path(noted["path"])) if "path" in noted else PlatformKeyring())


def _noted(settings: Settings) -> dict[str, Any]:
    try:
        noted = json.loads(settings.encryption_note.read_bytes())
        paths = [*([noted["path"]] if "path" in noted else []), *noted.get("before", ())]
        if not all(isinstance(path, str) for path in paths):
            raise ValueError
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unavailable(
            f"{settings.encryption_note} cannot be read: set MEMOS_KEY_FILE to the file that holds the passphrase"
        ) from error
    return dict(noted)
