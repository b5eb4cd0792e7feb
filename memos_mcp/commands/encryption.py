"""Encryption at rest: `encrypt` and `decrypt`, which change the store itself while no daemon has it.

Which key, and what is done with it, is `engine.vault.encrypting`; here is what a person says and is told. What must
stay true: no key and no passphrase is asked for, shown or passed on: a file or the platform's keyring holds it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from memos_mcp.commands.session import DONE, Session

if TYPE_CHECKING:
    from engine.vault.encrypting import Encryption

KEY_FILE = "MEMOS_KEY_FILE"


def encrypt(session: Session, options: argparse.Namespace) -> int:
    """`encrypt`, and `encrypt --change`, which gives the store another key."""
    # Only here: every other command leaves the engine alone, and need not wait for it to load.
    from engine.vault import encrypting
    from engine.vault.key_source import KeyFile, PlatformKeyring

    file: Path | None = options.passphrase_file
    source = PlatformKeyring() if file is None else KeyFile(file.expanduser().absolute())
    session.stop_daemon()
    if options.change:
        done = encrypting.change_key(session.settings, source)
    else:
        with session.screen.bar("encrypt") as bar:
            done = encrypting.encrypt(session.settings, source, progress=bar)
    where = "the keyring" if isinstance(source, PlatformKeyring) else str(source.path)
    lines = [
        f"the store in {session.settings.data} is encrypted; its key is in {where}",
        "whoever loses that key loses the store: keep a copy of it, away from this machine",
    ]
    _tell(session, done, lines, "not under this key, and left alone")
    if (named := os.environ.get(KEY_FILE)) and named != where:
        session.screen.remark(f"{KEY_FILE} still names {named}: unset it, or the store will not open")
    return DONE


def decrypt(session: Session, options: argparse.Namespace) -> int:
    from engine.vault import encrypting

    session.stop_daemon()
    with session.screen.bar("decrypt") as bar:
        done = encrypting.decrypt(session.settings, progress=bar)
    _tell(session, done, [f"the store in {session.settings.data} is not encrypted any more"], "")
    return DONE


def _tell(session: Session, done: Encryption, lines: list[str], left: str) -> None:
    if session.screen.as_json:
        session.screen.json(
            {
                "encrypted": done.encrypted,
                "source": done.source,
                "rows": done.rows,
                "out_of_reach": list(done.out_of_reach),
            }
        )
        return
    for line in lines:
        session.screen.line(line)
    for path in done.out_of_reach:
        session.screen.line(f"{left}: {path}")
