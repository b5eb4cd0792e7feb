"""`cube key create`, `show`, `trust`, `untrust`, `policy`: the keys of this store, and whose bundles are let in.

Keys are files of the data folder, not of the store: no daemon is needed, and a running one sees the change. What must
stay true: a secret is never shown.
"""

from __future__ import annotations

import argparse
from typing import Any

from engine import keys
from engine.keys import OwnKeys, Trusted
from memos_mcp.commands.session import DONE, Session


def create(session: Session, options: argparse.Namespace) -> int:
    own = keys.create_keys(session.settings)
    if session.screen.as_json:
        session.screen.json(_own(own))
        return DONE
    _print(session, own)
    session.screen.remark(
        f"the private keys are in {session.settings.keys_folder}: keep a copy, without it you cannot sign as yourself"
    )
    return DONE


def show(session: Session, options: argparse.Namespace) -> int:
    own, trusted = keys.own_keys(session.settings), keys.trusted(session.settings)
    if session.screen.as_json:
        session.screen.json({**_own(own), **_known(trusted)})
        return DONE
    _print(session, own)
    _print_trusted(session, trusted)
    return DONE


def trust(session: Session, options: argparse.Namespace) -> int:
    key = keys.key_from(options.key)
    trusted = keys.trust(session.settings, key, options.name)
    if session.screen.as_json:
        session.screen.json(_known(trusted))
    else:
        session.screen.line(f"what {key.fingerprint} signed is trusted")
    return DONE


def untrust(session: Session, options: argparse.Namespace) -> int:
    trusted = keys.untrust(session.settings, options.key)
    if session.screen.as_json:
        session.screen.json(_known(trusted))
    else:
        session.screen.line(f"{options.key} is trusted no more")
    return DONE


def policy(session: Session, options: argparse.Namespace) -> int:
    given: str | None = options.policy
    trusted = keys.trusted(session.settings) if given is None else keys.set_policy(session.settings, given)
    if session.screen.as_json:
        session.screen.json(_known(trusted))
    else:
        session.screen.line(LET_IN[trusted.policy])
    return DONE


LET_IN = {
    "any": "any: every bundle is let in; results say who signed it",
    "signed": "signed: only bundles that somebody signed are let in",
    "known": "known: only bundles that a trusted key signed are let in",
}


def _own(own: OwnKeys) -> dict[str, Any]:
    signing = own.signing
    return {
        "signing": None if signing is None else {"fingerprint": signing.fingerprint, "key": str(signing)},
        "recipient": own.recipient,
    }


def _known(trusted: Trusted) -> dict[str, Any]:
    rows = [{"name": name, "fingerprint": key.fingerprint, "key": str(key)} for name, key in trusted.keys]
    return {"policy": trusted.policy, "trusted": rows}


def _print(session: Session, own: OwnKeys) -> None:
    if own.signing is None and own.recipient is None:
        session.screen.line("this store has no keys: `memos-mcp cube key create` makes them")
        return
    if own.signing is not None:
        session.screen.line(f"signs as       {own.signing.fingerprint}  {own.signing}")
    if own.recipient is not None:
        session.screen.line(f"encrypt to it  {own.recipient}")


def _print_trusted(session: Session, trusted: Trusted) -> None:
    session.screen.line(f"policy         {LET_IN[trusted.policy]}")
    if trusted.keys:
        session.screen.table(
            ("trusted", "fingerprint", "key"), [(name, key.fingerprint, str(key)) for name, key in trusted.keys]
        )
