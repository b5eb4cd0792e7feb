"""The keys of a store: one that signs its bundles, one that opens what was encrypted to it, and those that it trusts.

All lie in `<data>/keys`, which only its owner reads: `signing.pem`, `identity.age`, and `trust.json` with a policy
(`any`, `signed`, `known`) and the public keys that are known by name. Keys are made when they are asked for, never by
the way: who has none packs without a signature. Receipts of erasures are always signed: by `signing.pem`, or where
there is none by `receipts.pem`, which is made with the first receipt and signs nothing else.

Knows neither the vault nor what is in a bundle. What must stay true: a secret is in no message, log, result or
argument; `trust.json` is there whole or not at all; a file of keys that others can read is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cubes import CubeError
from cubes.bundle import Bundle, open_bundle
from cubes.bundle import inspect as inspect_bundle
from cubes.encryption import Identity, create_identity, load_identity
from cubes.errors import (
    DamagedBundle,
    TooLargeBundle,
    UnsupportedBundle,
    UntrustedBundle,
    UnusableFile,
    WrongKey,
)
from cubes.private import read_private
from cubes.signing import Anyone, Known, PublicKey, Signed, SigningKey, Trust, create_signing_key, load_signing_key
from engine.errors import Conflict, Corrupt, Invalid, MemosError, NotAllowed, NotFound, TooLarge, Unavailable
from engine.files import sync_file, sync_folder
from engine.settings import Settings

SIGNING, IDENTITY, TRUST, RECEIPTS = "signing.pem", "identity.age", "trust.json", "receipts.pem"
POLICIES = ("any", "signed", "known")
MAX_KEY_NAME_CHARS = 64
MAX_TRUSTED = 10_000
OWN_NAME = "this store"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The public sides of a store's own keys; None: it has none."""

    signing: PublicKey | None
    recipient: str | None  # `age1…`: what others encrypt bundles to


@dataclass(frozen=True, slots=True)
class Trusted:
    """Whose bundles are let in, and the keys that are known: (name, key), by name."""

    policy: str = "any"
    keys: tuple[tuple[str, PublicKey], ...] = ()


# --- own keys -------------------------------------------------------------------------------------------------------


def create_keys(settings: Settings) -> OwnKeys:
    """Make the keys that the store has not yet.

    Raises:
        Conflict: it has both already.
        Invalid, NotAllowed: the folder cannot be used.
    """
    folder = _folder(settings, make=True)
    missing = [name for name in (SIGNING, IDENTITY) if not (folder / name).exists()]
    if not missing:
        raise Conflict(f"{folder} holds keys already: `memos-mcp cube key show` shows them; to make others, move them")
    with refusing():
        if SIGNING in missing:
            create_signing_key(folder / SIGNING)
        if IDENTITY in missing:
            create_identity(folder / IDENTITY)
    sync_folder(folder)
    return own_keys(settings)


def own_keys(settings: Settings) -> OwnKeys:
    """The public sides of the store's keys. Raises as `signing_key`."""
    key, found = signing_key(settings), identities(settings)
    return OwnKeys(None if key is None else key.public, found[0].recipient if found else None)


def signing_key(settings: Settings) -> SigningKey | None:
    """The key that signs this store's bundles; None: there is none.

    Raises:
        NotAllowed: others can read it.
        Invalid: the file holds no such key.
    """
    path = _folder(settings) / SIGNING
    if not path.exists():
        return None
    with refusing():
        return load_signing_key(path)


def receipt_key(settings: Settings) -> SigningKey:
    """The key that signs receipts of erasures; it is made if there is none. Raises as `signing_key`."""
    key = signing_key(settings) or _receipts_own(settings)
    if key is None:
        with refusing():
            key = create_signing_key(_folder(settings, make=True) / RECEIPTS)
        sync_folder(_folder(settings))
    return key


def _receipts_own(settings: Settings) -> SigningKey | None:
    path = _folder(settings) / RECEIPTS
    if not path.exists():
        return None
    with refusing():
        return load_signing_key(path)


def receipt_signers(settings: Settings) -> Mapping[PublicKey, str]:
    """The keys whose receipts are known here, and their names. Raises as `trusted`."""
    own = _receipts_own(settings)
    return ({} if own is None else {own.public: OWN_NAME}) | dict(anyone(settings).keys)


def identities(settings: Settings) -> tuple[Identity, ...]:
    """What opens bundles that were encrypted to this store. Raises as `signing_key`."""
    path = _folder(settings) / IDENTITY
    if not path.exists():
        return ()
    with refusing():
        return (load_identity(path),)


# --- whom it trusts -------------------------------------------------------------------------------------------------


def trusted(settings: Settings) -> Trusted:
    """The policy and the known keys.

    Raises:
        Corrupt: `trust.json` is not what was written; nothing is let in until that is put right.
    """
    path = _folder(settings) / TRUST
    if not path.exists():
        return Trusted()
    with refusing():
        raw = read_private(path)
    try:
        found: dict[str, Any] = json.loads(raw)
        keys = tuple(sorted((str(name), PublicKey.parse(key)) for name, key in found["keys"].items()))
        if found["policy"] not in POLICIES or found["format"] != FORMAT:
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, WrongKey):
        raise Corrupt(f"{path} is damaged: put it right, or remove it and trust your keys again") from None
    return Trusted(found["policy"], keys)


def trust(settings: Settings, key: PublicKey, name: str | None = None) -> Trusted:
    """Know a key by a name (its fingerprint, if none is given).

    Raises:
        Invalid: no name that a key can have.
        Conflict: another key has that name, or the key another one.
    """
    name = key.fingerprint if name is None else name
    if not name or len(name) > MAX_KEY_NAME_CHARS or not name.isprintable() or name != name.strip():
        raise Invalid(f"a key's name has 1 to {MAX_KEY_NAME_CHARS} printable characters and no outer blanks")
    known = trusted(settings)
    for other, its in known.keys:
        if its == key and other != name:
            raise Conflict(f"this key is known as {other!r}: untrust that first to give it another name")
        if other == name and its != key:
            raise Conflict(f"another key is known as {name!r}: take another name")
    if len(known.keys) >= MAX_TRUSTED:
        raise TooLarge(f"{len(known.keys)} keys are trusted: untrust some first")
    return _write(settings, known.policy, {**dict(known.keys), name: key})


def untrust(settings: Settings, wanted: str) -> Trusted:
    """Know the key of that name or fingerprint no more. Raises `NotFound` where there is none."""
    known = trusted(settings)
    staying = {name: key for name, key in known.keys if wanted not in (name, key.fingerprint, str(key))}
    if len(staying) == len(known.keys):
        raise NotFound(f"no trusted key is called {wanted!r}: `memos-mcp cube key show` lists them")
    return _write(settings, known.policy, staying)


def set_policy(settings: Settings, policy: str) -> Trusted:
    """Say which bundles are let in: `any`, `signed` ones, or those of `known` keys."""
    if policy not in POLICIES:
        raise Invalid(f"{policy!r} is no trust policy: use {', '.join(POLICIES)}")
    return _write(settings, policy, dict(trusted(settings).keys))


def judge(settings: Settings) -> Trust:
    """The policy as something that judges bundles; this store's own key is known. Raises as `trusted`."""
    policy, names = trusted(settings).policy, anyone(settings).keys
    if policy == "any":
        return Anyone(names)
    return Signed(names) if policy == "signed" else Known(names)


def anyone(settings: Settings) -> Anyone:
    """What accepts every bundle, whatever the policy is, and says which keys are known. For looking at it."""
    own = own_keys(settings).signing
    return Anyone(({} if own is None else {own: OWN_NAME}) | {key: name for name, key in trusted(settings).keys})


def key_from(text: str) -> PublicKey:
    """The public key that `text` is, or that stands in the file of that name, or that signed the bundle there.

    Raises:
        Invalid: there is no key in it.
        Corrupt, Unavailable, TooLarge: it is a bundle that cannot be read.
    """
    with contextlib.suppress(WrongKey):
        return PublicKey.parse(text.strip())
    path = Path(text).expanduser()
    with refusing():
        if not path.is_file():
            raise WrongKey(f"{text[:80]!a} is neither a public key nor a file")
        with path.open("rb") as file:
            start = file.read(1024)
        with contextlib.suppress(WrongKey, UnicodeDecodeError):
            return PublicKey.parse(start.decode("ascii").strip())
        signature = inspect_bundle(path).signature
    if signature is None:
        raise Invalid(f"{path.name} is not signed: nobody's key is in it")
    return signature.key


def _write(settings: Settings, policy: str, keys: dict[str, PublicKey]) -> Trusted:
    path = _folder(settings, make=True) / TRUST
    plain = {"format": FORMAT, "policy": policy, "keys": {name: str(key) for name, key in sorted(keys.items())}}
    partial = path.with_name(f".{TRUST}.partial")
    try:
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(plain, file, indent=2)
            file.write("\n")
        sync_file(partial)
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}; nothing was changed") from error
    return trusted(settings)


def _folder(settings: Settings, *, make: bool = False) -> Path:
    folder = settings.keys_folder
    if make:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Invalid(f"{folder} cannot be made: {error.strerror}") from error
    return folder


# --- opening bundles with them ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(settings: Settings, path: Path, passphrase_file: Path | None = None) -> Iterator[Bundle]:
    """The bundle at `path`, opened with this store's keys and judged by its policy. What the bundle raises while it is
    read comes as the engine's errors.

    Raises:
        NotAllowed: its signature is false, or the policy refuses it, or no key opens it.
        Corrupt, Invalid, TooLarge, Unavailable: it cannot be read; the message names the file.
    """
    phrase = None if passphrase_file is None else passphrase(passphrase_file)
    with (
        refusing(),
        open_bundle(path, identities=identities(settings), passphrase=phrase, trust=judge(settings)) as bundle,
    ):
        yield bundle


def passphrase(path: Path) -> str:
    """The passphrase in a file, without the line's end. Raises `Invalid` where there is none."""
    with refusing():
        raw = read_private(path)
    try:
        found = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise Invalid(f"{path} holds no passphrase: it is not text") from None
    if not found:
        raise Invalid(f"{path} is empty: put the passphrase into it")
    return found


_TOLD: tuple[tuple[type[CubeError], type[MemosError]], ...] = (
    (DamagedBundle, Corrupt),
    (UnsupportedBundle, Unavailable),
    (TooLargeBundle, TooLarge),
    (UntrustedBundle, NotAllowed),
    (WrongKey, NotAllowed),
    (UnusableFile, Invalid),
    (CubeError, Invalid),
)


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Raise what `cubes` refuses as one of the engine's errors, in its words."""
    try:
        yield
    except CubeError as error:
        told = next(told for kind, told in _TOLD if isinstance(error, kind))
        raise told(str(error)) from error
