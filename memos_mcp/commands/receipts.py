"""`receipt list`, `show`, `verify`: proofs of what was erased.

Verifying reads a file and this store's keys, and asks no daemon: a receipt can be verified wherever its signer's key is
trusted. What must stay true: a receipt whose signature is false, or by a key that nobody here knows, is a failure.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from engine import receipts
from engine.errors import Invalid
from memos_mcp.commands.session import DONE, Failure, Session

STDIN = "-"


def show_all(session: Session, options: argparse.Namespace) -> int:
    rows = session.call("receipts", {})["receipts"]
    if session.screen.as_json:
        session.screen.json({"receipts": rows})
        return DONE
    told = [
        (row["id"], row["at"][:19], len(row["erased"]), "yes" if row["signature"] else "no", _left(row)) for row in rows
    ]
    session.screen.table(("receipt", "erased at", "memories", "signed", "copies out of reach"), told)
    return DONE


def _left(row: dict[str, Any]) -> str:
    if row["finished_at"] is None:
        return "copies are still being removed"
    return str(len(row["out_of_reach"]) or "")


def show(session: Session, options: argparse.Namespace) -> int:
    found = session.call("receipt", {"id": options.id})
    if session.screen.as_json:
        session.screen.json(found)
        return DONE
    screen, receipt = session.screen, found["receipt"]
    screen.line(f"receipt    {receipt['id']} of {receipt['at'][:19]}, row {receipt['audit_seq']} of the audit log")
    screen.line(f"erased     {', '.join(receipt['erased'])}")
    screen.line(f"removed    {_counts(receipt['removed'])}")
    for name, told in tiers(receipt):
        screen.line(f"{name:<10} {told}")
    for name in ("rewritten", "withdrawn"):
        if receipt[name]:
            screen.line(f"{name:<10} {', '.join(receipt[name])}")
    signature = receipt["signature"]
    screen.line(f"signed     {'by nobody' if signature is None else 'with ' + signature['key']}")
    for path in receipt["out_of_reach"]:
        screen.remark(f"a copy may remain in {path}: delete it yourself")
    if receipt["finished_at"] is None:
        screen.remark("copies are still being removed: this is no proof yet")
    for work in found["since"]:
        screen.remark(f"{work['what']} of cube {work['cube']}: {work['state']}. {work['told'] or work['reason']}")
    return DONE


def tiers(receipt: dict[str, Any]) -> list[tuple[str, str]]:
    """What went from the deeper tiers, in words."""
    told = []
    if receipt["kv"]:
        told.append(("kv", ", ".join(f"{count} of {cube or 'conversations'}" for cube, count in receipt["kv"].items())))
    if receipt["lora"]:
        gone = (f"{row['cube']} {row['version']}{' (it served)' if row['served'] else ''}" for row in receipt["lora"])
        told.append(("lora", f"adapter {', '.join(gone)}"))
    return told


def _counts(removed: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in removed.items()) or "nothing else held it"


def verify(session: Session, options: argparse.Namespace) -> int:
    """Whose signature it has; exit code 1 where it is false, or by a key that is not known here."""
    raw = _content(options.file)
    try:
        found = receipts.verify_receipt(session.settings, raw)
    except Invalid as error:
        raise Invalid(f"{options.file}: {error}; `memos-mcp receipt show RECEIPT --json > FILE` writes one") from None
    receipt = found.receipt
    if session.screen.as_json:
        session.screen.json(
            {"id": receipt.id, "key": found.key, "fingerprint": found.fingerprint, "known_as": found.known_as}
        )
    if found.known_as is None:
        raise Failure(
            f"the signature is true, but nobody here knows its key {found.key}: if it is whose it should be, "
            f"`memos-mcp cube key trust {found.key}`, and verify again"
        )
    if not session.screen.as_json:
        session.screen.line(
            f"receipt {receipt.id} of {receipts.plain(receipt)['at'][:19]} is as it was signed by {found.known_as} "
            f"({found.fingerprint}): {len(receipt.erased)} erased"
        )
    return DONE


def _content(name: str) -> bytes:
    most = receipts.MAX_RECEIPT_BYTES + 1
    try:
        if name == STDIN:
            return sys.stdin.buffer.read(most)
        with Path(name).expanduser().open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise Invalid(f"{name} cannot be read: {error.strerror}") from error
