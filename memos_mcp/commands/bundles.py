"""`cube pack`, `inspect`, `verify`, `install`, `upgrade`, `unpack`, and `cube diff` of files: cubes as files.

Packing and installing are the daemon's work. Looking at files needs neither a daemon nor a store: only this store's
keys and trust policy, where there are any. What must stay true: a passphrase comes from a file or from a prompt, never
from the command line, and one that was typed goes to the daemon as a private file that is gone afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import hashlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from cubes.bundle import Bundle
from cubes.encryption import AGE_START, IDENTITY
from engine import keys
from engine.errors import Invalid, MemosError
from memos_mcp.commands.memory import given
from memos_mcp.commands.session import DONE, Failure, Session, Usage
from memos_mcp.commands.unpacking import unpack as write_plain
from memos_mcp.terminal import interactive

URL_MARK = "://"
BUNDLE = ".memcube"
ZIP_START, NAME_AT = b"PK\x03\x04", 30  # where the name of a ZIP's first member stands
PACKING = ("redact", "snapshot", "recipients")
ENDINGS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


# --- packing and installing -----------------------------------------------------------------------------------------


def pack(session: Session, options: argparse.Namespace) -> int:
    if not options.file.endswith(BUNDLE):
        raise Usage(f"{options.file!r} does not end in {BUNDLE}: name a bundle, as in notes{BUNDLE}")
    if not options.replace and os.path.lexists(path := absolute(options.file)):
        raise Invalid(f"{path} is there already: --replace writes over it, or name another file")
    with asked_passphrase(session, options) as passphrase_file:
        wanted = {
            **packing(options, passphrase_file),
            "path": str(absolute(options.file)),
            "replace": options.replace,
        }
        with session.screen.bar("pack") as bar:
            result = session.call("pack", wanted, bar)
    if session.screen.as_json:
        session.screen.json(result)
    else:
        say_packed(session, result)
    return DONE


def packing(options: argparse.Namespace, passphrase_file: str | None) -> dict[str, Any]:
    """What the options say about how to pack."""
    wanted = {"cube": options.cube, "history": options.history, "embeddings": options.embeddings, "sign": options.sign}
    wanted |= given(options, *PACKING)
    return wanted if passphrase_file is None else {**wanted, "passphrase_file": passphrase_file}


def say_packed(session: Session, result: dict[str, Any]) -> None:
    screen = session.screen
    screen.line(
        f"{result['path']}: {result['memories']:,} memories, {result['versions']:,} versions, {result['bytes']:,} bytes"
    )
    if result["redacted"]:
        screen.line(f"left out: what is {result['redacted']} or more sensitive")
    for remark in result["remarks"]:
        screen.remark(remark)
    if result["signed_by"]:
        screen.line(f"signed by {result['signed_by']}")
    else:
        has_key = (session.settings.keys_folder / keys.SIGNING).exists()
        screen.line("not signed" if has_key else "not signed: `memos-mcp cube key create` makes a key")


def install(session: Session, options: argparse.Namespace) -> int:
    return _install(session, options, upgrade=False)


def upgrade(session: Session, options: argparse.Namespace) -> int:
    return _install(session, options, upgrade=True)


def _install(session: Session, options: argparse.Namespace, *, upgrade: bool) -> int:
    source = _source(options.source)
    wanted = {"source": source, "upgrade": upgrade, "dry_run": options.dry_run, "keep_policy": options.keep_policy}
    wanted |= given(options, "name")
    with _passphrase_for(session, options, source) as passphrase_file, session.screen.bar("install") as bar:
        if passphrase_file is not None:
            wanted["passphrase_file"] = passphrase_file
        result = session.call("install", wanted, bar)
    if session.screen.as_json:
        session.screen.json(result)
    else:
        _say_installed(session, result, options.dry_run)
    return DONE


def _source(text: str) -> str:
    """A file's path, a URL, or a shelf and what lies there; where that is a folder here, it is made absolute."""
    if URL_MARK in text:
        return text
    shelf, mark, name = text.rpartition("#")
    return f"{absolute(shelf)}#{name}" if mark and not absolute(text).exists() else str(absolute(text))


def _say_installed(session: Session, result: dict[str, Any], dry_run: bool) -> None:
    screen = session.screen
    done = "would be" if dry_run else "is"
    screen.line(
        f"cube {result['cube']} {done} installed: {result['memories']:,} memories, {result['versions']:,} versions"
    )
    screen.line(signed(result))
    if result["reembedded"]:
        screen.line("its vectors are of another model: they are made anew in the background")
    if result["renamed_ids"]:
        screen.line(f"{result['renamed_ids']:,} ids were taken here and got new ones")
    if result["kept_local"]:
        screen.line(f"changed here as well, and left as they are: {', '.join(result['kept_local'])}")
    for artifact in result["artifacts"]:
        screen.line(f"artifact {artifact['id']}: {artifact['state']}")
    if result["diff"]:
        from memos_mcp.commands.moments import show_diff

        show_diff(session, result["diff"])


def signed(result: dict[str, Any]) -> str:
    """Who vouches for a bundle."""
    if result["signed_by"] is None:
        return "not signed: nobody vouches for it"
    known = "a key that you trust" if result["trusted"] else "a key that you do not know"
    return f"signed by {result['signed_by']}, {known}"


# --- looking at files -----------------------------------------------------------------------------------------------


def inspect(session: Session, options: argparse.Namespace) -> int:
    with opened(session, options, options.file) as bundle:
        found = _told(bundle, absolute(options.file))
    if session.screen.as_json:
        session.screen.json(found)
    else:
        rows = [(name, value) for name, value in _facts(found) if value not in (None, "")]
        session.screen.table(("bundle", found["path"]), rows)
    return DONE


def verify(session: Session, options: argparse.Namespace) -> int:
    with opened(session, options, options.file) as bundle, session.screen.bar("verify") as bar:
        bundle.verify(bar)
        found = _told(bundle, absolute(options.file))
    if session.screen.as_json:
        session.screen.json({**found, "whole": True})
    else:
        session.screen.line(f"{found['path']} is whole: {found['memories']:,} memories, {found['versions']:,} versions")
        session.screen.line(signed(found))
    return DONE


def unpack(session: Session, options: argparse.Namespace) -> int:
    folder = absolute(options.folder)
    with opened(session, options, options.file) as bundle, session.screen.bar("unpack") as bar:
        counts = write_plain(bundle, folder, bar)
    if session.screen.as_json:
        session.screen.json({"folder": str(folder), **counts})
    else:
        session.screen.line(f"{counts['memories']:,} memories are in {folder} as Markdown")
        if counts.get("adapters"):
            many = "1 adapter is" if counts["adapters"] == 1 else f"{counts['adapters']:,} adapters are"
            session.screen.line(f"{many} in {folder / 'adapters'} as PEFT folders")
    return DONE


def diff_of_files(session: Session, options: argparse.Namespace) -> dict[str, Any]:
    """What differs between two bundles."""
    from cubes.differences import diff

    with (
        opened(session, options, options.before) as before,
        opened(session, options, options.after) as after,
        session.screen.bar("compare") as bar,
    ):
        found = diff(before, after, bar)
    return {
        "before": options.before,
        "after": options.after,
        "added": list(found.added),
        "removed": list(found.removed),
        "changed": [{"id": row.id, "fields": [_field(change) for change in row.fields]} for row in found.changed],
        "header": [_field(change) for change in found.header],
    }


def _field(change: Any) -> dict[str, Any]:
    from cubes.differences import OMITTED

    shown = {side: getattr(change, side) for side in ("before", "after")}
    return {"name": change.name} | {
        side: "(too long to be shown)" if value == OMITTED else value for side, value in shown.items()
    }


def _told(bundle: Bundle, path: Path) -> dict[str, Any]:
    """What a bundle says of itself, in the fields of every other result about bundles."""
    from memos_mcp.render_cubes import cube

    manifest, signature = bundle.manifest, bundle.signature
    return {
        "path": str(path),
        "name": manifest.cube.name,
        "memories": manifest.counts.memories,
        "versions": manifest.counts.versions,
        "states": {state.value: count for state, count in manifest.counts.states},
        "bytes": path.stat().st_size,
        "digest": _digest(path),
        "signed_by": None if signature is None else signature.key.fingerprint,
        "trusted": signature is not None and signature.known,
        "encrypted": _is_encrypted(path),
        "redacted": None if manifest.redacted is None else manifest.redacted.value,
        "embedder": None if manifest.embedder is None else manifest.embedder.source,
        "artifacts": len(manifest.artifacts),
        "header": cube(manifest.cube),
    }


def _facts(found: dict[str, Any]) -> list[tuple[str, object]]:
    header = found["header"]
    origin = header["provenance"]
    return [
        ("cube", found["name"]),
        ("about", header["description"]),
        ("licence", header["licence"]),
        ("owner", header["owner"]),
        ("made in", origin and f"store {origin['store']}, as {origin['cube']!r} of {origin['owner']}"),
        ("memories", f"{found['memories']:,} ({', '.join(f'{n:,} {what}' for what, n in found['states'].items())})"),
        ("versions", f"{found['versions']:,}"),
        ("vectors of", found["embedder"]),
        ("artifacts", found["artifacts"] or None),
        ("left out", found["redacted"] and f"what is {found['redacted']} or more sensitive"),
        ("encrypted", "yes" if found["encrypted"] else "no"),
        ("signature", signed(found)),
        ("bytes", f"{found['bytes']:,}"),
        ("digest", found["digest"]),
        ("contents", "not checked: `memos-mcp cube verify` does that"),
    ]


# --- opening, and passphrases ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(session: Session, options: argparse.Namespace, text: str) -> Iterator[Bundle]:
    """The bundle that was named, opened with this store's keys, or with a passphrase."""
    path = absolute(text)
    with (
        _passphrase_for(session, options, str(path)) as passphrase_file,
        keys.opened(session.settings, path, None if passphrase_file is None else Path(passphrase_file)) as bundle,
    ):
        yield bundle


@contextlib.contextmanager
def asked_passphrase(session: Session, options: argparse.Namespace) -> Iterator[str | None]:
    """The file of a passphrase to encrypt to: as it was named, or one that holds what a person typed, twice."""
    if options.passphrase_file is not None and options.encrypt:
        raise Usage("take --encrypt, which asks for a passphrase, or --passphrase-file")
    if not options.encrypt:
        yield _named(options)
        return
    if not interactive():
        raise Failure("nobody is there to type a passphrase: use --passphrase-file")
    typed = _typed("passphrase: ")
    if not typed or typed != _typed("again: "):
        raise Failure("the passphrases differ, or are empty: nothing was done")
    with _kept_for_now(typed) as path:
        yield path


@contextlib.contextmanager
def _passphrase_for(session: Session, options: argparse.Namespace, source: str) -> Iterator[str | None]:
    """The file of the passphrase that opens a bundle, where it needs one; a person is asked for it."""
    path = Path(source)
    if options.passphrase_file is not None or not path.is_file() or not takes_passphrase(path) or not interactive():
        yield _named(options)
        return
    if _opens_with_own_key(session, path):
        yield None
        return
    with _kept_for_now(_typed(f"passphrase of {path.name}: ")) as file:
        yield file


def _typed(prompt: str) -> str:
    try:
        return getpass.getpass(prompt)
    except EOFError as error:
        raise Failure("no passphrase was given: nothing was done") from error


def _opens_with_own_key(session: Session, path: Path) -> bool:
    try:
        with keys.opened(session.settings, path):
            return True
    except MemosError:
        return False


def takes_passphrase(path: Path) -> bool:
    """Whether a passphrase may open it: the first member of such a file is an identity under that."""
    with path.open("rb") as file:
        start = file.read(NAME_AT + len(IDENTITY))
    return start.startswith(ZIP_START) and start[NAME_AT:] == IDENTITY.encode()


def _is_encrypted(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(AGE_START)) == AGE_START or takes_passphrase(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _named(options: argparse.Namespace) -> str | None:
    return None if options.passphrase_file is None else str(absolute(options.passphrase_file))


@contextlib.contextmanager
def _kept_for_now(passphrase: str) -> Iterator[str]:
    """A private file for as long as the daemon works with it, in memory where the system has a place for that."""
    folder = os.environ.get("XDG_RUNTIME_DIR")
    where = folder if folder and os.access(folder, os.W_OK) else None
    with _ended_in_order(), tempfile.TemporaryDirectory(dir=where) as private:
        path = Path(private) / "passphrase"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(passphrase)
        yield str(path)


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let a signal that ends the process unwind it meanwhile, once, so that files that are to go are gone."""

    def end(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # a second one would stop the cleaning up
        raise SystemExit(128 + number)

    # One that is ignored stays so: `nohup` asks for that.
    before = {each: old for each in ENDINGS if (old := signal.getsignal(each)) == signal.SIG_DFL}
    try:
        for each in before:
            signal.signal(each, end)
        yield
    finally:
        for each, old in before.items():
            signal.signal(each, old)


def absolute(text: str) -> Path:
    return Path(text).expanduser().absolute()
