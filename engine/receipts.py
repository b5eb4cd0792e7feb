"""Receipts of erasures: what each says, its one form in JSON, its signature, and where it is kept.

    erasure → a draft, in its own audit row → every copy removed → the receipt, signed, in an audit row `receipt`

So a receipt is there if and only if its erasure reached every copy that this program can reach, and it can be fetched
for as long as there is the store. It holds ids, counts, keyed digests and places, never what a memory said. The
signature is of the canonical JSON of everything but itself: who keeps the JSON can have it verified anywhere.

What must stay true: a receipt is signed as soon as a key can be had, and never changed afterwards; whoever is not the
owner is told of no path, but of how many there are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from cubes import fields
from cubes.canonical import json_bytes
from cubes.signing import PublicKey, SigningKey, verify
from engine import keys
from engine.errors import Invalid, MemosError, NotAllowed, NotFound, TooLarge
from engine.operations import AdapterGone, Caller, Receipt, Signed, VerifiedReceipt
from engine.parts import Parts
from engine.settings import Settings
from engine.vault import Transaction, queries
from engine.vault.audit import AuditRow
from engine.vault.connection import Connection
from engine.vault.work import all_work

FORMAT: Literal["memos-erasure-receipt/1"] = "memos-erasure-receipt/1"
DOMAIN = b"memos-erasure-receipt/1\n"  # before what is signed: a signature of a bundle never fits a receipt
ERASE, FINISHED = "erase", "receipt"  # actions in the audit log: the draft, and the signed receipt
MAX_RECEIPT_BYTES = 8_000_000
MAX_DEPTH = 8
MAX_LISTED = 100_000
log = logging.getLogger(__name__)

Text = Annotated[str, Field(max_length=8_192)]
Texts = Annotated[list[Text], Field(max_length=MAX_LISTED)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Counts = Annotated[dict[Text, Count], Field(max_length=MAX_LISTED)]


@dataclass(frozen=True, slots=True)
class Draft:
    """An erasure that was committed: its receipt as far as it is known, the cubes that it is about, and for whom."""

    receipt: Receipt
    cubes: tuple[str, ...]
    actor: str
    owner: bool


@dataclass(frozen=True, slots=True)
class Reached:
    """What became of the copies of one erasure."""

    rewritten: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    out_of_reach: tuple[str, ...] = ()


# --- JSON -----------------------------------------------------------------------------------------------------------


def plain(receipt: Receipt) -> dict[str, Any]:
    """The JSON of a receipt. Everything but `signature` is what is signed."""
    return {
        "format": FORMAT,
        "id": receipt.id,
        "at": _when(receipt.at),
        "store": receipt.store,
        "erased": list(receipt.erased),
        "digests": list(receipt.digests),
        "removed": dict(receipt.removed),
        "kv": dict(receipt.kv),
        "lora": [{"cube": gone.cube, "version": gone.version, "served": gone.served} for gone in receipt.lora],
        "rewritten": list(receipt.rewritten),
        "withdrawn": list(receipt.withdrawn),
        "out_of_reach": list(receipt.out_of_reach),
        "withheld": receipt.withheld,
        "audit_seq": receipt.audit_seq,
        "finished_at": None if receipt.finished_at is None else _when(receipt.finished_at),
        "signature": None
        if receipt.signed is None
        else {
            "algorithm": receipt.signed.algorithm,
            "key": receipt.signed.key,
            "signature": receipt.signed.signature,
        },
    }


class _Adapter(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    cube: Text
    version: Count
    served: bool


class _Signature(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    algorithm: Text
    key: Text
    signature: Text


class _Document(BaseModel):
    """A receipt as it comes from a file: every field is checked, and none is taken that is not known."""

    model_config = ConfigDict(strict=True, extra="forbid")
    format: Literal["memos-erasure-receipt/1"]
    id: Text
    at: Annotated[AwareDatetime, Field(strict=False)]
    store: Text
    erased: Texts
    digests: Texts
    removed: Counts
    kv: Counts
    lora: Annotated[list[_Adapter], Field(max_length=MAX_LISTED)]
    rewritten: Texts
    withdrawn: Texts
    out_of_reach: Texts
    withheld: Count
    audit_seq: Count
    finished_at: Annotated[AwareDatetime, Field(strict=False)] | None
    signature: _Signature | None


def from_plain(found: object) -> Receipt:
    """The receipt that JSON is. Raises `Invalid` where it is none."""
    try:
        told = _Document.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Invalid(f"that is no receipt of an erasure ({where or 'it'}: {first['type']})") from None
    return Receipt(
        id=told.id,
        at=told.at,
        erased=tuple(told.erased),
        digests=tuple(told.digests),
        removed=tuple(told.removed.items()),
        out_of_reach=tuple(told.out_of_reach),
        audit_seq=told.audit_seq,
        store=told.store,
        kv=tuple(told.kv.items()),
        lora=tuple(AdapterGone(gone.cube, gone.version, gone.served) for gone in told.lora),
        rewritten=tuple(told.rewritten),
        withdrawn=tuple(told.withdrawn),
        withheld=told.withheld,
        finished_at=told.finished_at,
        signed=None if told.signature is None else Signed(**told.signature.model_dump()),
    )


def _when(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _body(document: Mapping[str, Any]) -> bytes:
    """What is signed: the document without its signature."""
    return json_bytes({name: value for name, value in document.items() if name != "signature"})


# --- signing and verifying ------------------------------------------------------------------------------------------


def sign(receipt: Receipt, key: SigningKey) -> Receipt:
    """The receipt with a signature of all that it says."""
    made = json.loads(key.sign(_body(plain(receipt)), DOMAIN))
    return replace(receipt, signed=Signed(made["algorithm"], made["key"], made["signature"]))


def verify_receipt(settings: Settings, raw: bytes) -> VerifiedReceipt:
    """Whose signature a receipt has. `raw` is its JSON, or that of a whole answer of `forget`.

    Raises:
        Invalid: it is no receipt, or is not signed; TooLarge: it is larger than any receipt.
        NotAllowed: its signature is false: it was changed after it was signed.
    """
    if len(raw) > MAX_RECEIPT_BYTES:
        raise TooLarge(f"a receipt has at most {MAX_RECEIPT_BYTES:,} bytes, and this has {len(raw):,}")
    with keys.refusing():
        found = fields.parse(raw, MAX_DEPTH)
    if isinstance(found, dict) and "format" not in found and isinstance(found.get("receipt"), dict):
        found = found["receipt"]
    receipt = from_plain(found)
    assert isinstance(found, dict)  # else it would be no receipt
    if receipt.signed is None:
        raise Invalid(f"the receipt {receipt.id} is not signed: nothing proves who wrote it")
    with keys.refusing():
        signer: PublicKey = verify(_body(found), json_bytes(found["signature"]), DOMAIN)
    return VerifiedReceipt(receipt, str(signer), signer.fingerprint, keys.receipt_signers(settings).get(signer))


# --- from erasure to receipt ----------------------------------------------------------------------------------------


def drafted(receipt: Receipt, *, owner: bool) -> Mapping[str, Any]:
    """What the audit row of an erasure says of its receipt; `owner`: the owner of the store erased."""
    return {
        "receipt": receipt.id,
        "digests": list(receipt.digests),
        "removed": dict(receipt.removed),
        "kv": dict(receipt.kv),
        "lora": [[gone.cube, gone.version, gone.served] for gone in receipt.lora],
        "owner": owner,
    }


def draft_of(row: AuditRow, store: str) -> Draft:
    """What the audit row of an erasure says. Rows of earlier versions say less."""
    detail = row.detail
    receipt = Receipt(
        id=str(detail.get("receipt", "")),
        at=row.recorded_at,
        erased=row.ids,
        digests=tuple(detail.get("digests", ())),
        removed=tuple(detail.get("removed", {}).items()),
        audit_seq=row.seq,
        store=store,
        kv=tuple(detail.get("kv", {}).items()),
        lora=tuple(AdapterGone(cube, version, served) for cube, version, served in detail.get("lora", ())),
    )
    return Draft(receipt, tuple(detail.get("cubes", ())), row.actor, bool(detail.get("owner", True)))


def drafts(parts: Parts, ids: Sequence[str]) -> list[Draft]:
    """The erasures of these receipts whose copies are still being removed."""
    with parts.vault.reading() as connection:
        finished = {row.detail["receipt"] for row in queries.audited(connection, FINISHED)}
        rows = [row for row in queries.audited(connection, ERASE) if row.detail.get("receipt") in ids]
    return [draft_of(row, parts.vault.store_id) for row in rows if row.detail["receipt"] not in finished]


def finished(parts: Parts, draft: Draft, reached: Reached, now: datetime) -> Mapping[str, Any]:
    """What the audit row of a finished receipt says: all of it, and what who is not the owner gets to see of it."""
    receipt = replace(
        draft.receipt,
        rewritten=reached.rewritten,
        withdrawn=tuple(map(_writable, reached.withdrawn)),
        out_of_reach=tuple(map(_writable, reached.out_of_reach)),
        finished_at=now,
    )
    told: dict[str, Any] = {"receipt": receipt.id, "document": plain(_signed(parts, receipt))}
    if not draft.owner:
        told["shown"] = plain(_signed(parts, _shown(receipt, draft.cubes)))
    return told


def _shown(receipt: Receipt, cubes: Sequence[str]) -> Receipt:
    """What of a receipt is for who is not the owner: no place, and nothing of other cubes and conversations."""
    return replace(
        receipt,
        withdrawn=(),
        out_of_reach=(),
        withheld=len(receipt.withdrawn) + len(receipt.out_of_reach),
        kv=tuple((cube, count) for cube, count in receipt.kv if cube in cubes),
        lora=tuple(gone for gone in receipt.lora if gone.cube in cubes),
    )


def _signed(parts: Parts, receipt: Receipt) -> Receipt:
    """Signed, unless the key cannot be used: no erasure fails for that, and the receipt says that nobody signed it."""
    try:
        return sign(receipt, keys.receipt_key(parts.vault.settings))
    except MemosError as error:
        log.error("the receipt %s is not signed: %s", receipt.id, error)
        return receipt


def _writable(path: str) -> str:
    """A path as text that UTF-8 can hold."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def keep(transaction: Transaction, draft: Draft, told: Mapping[str, Any]) -> None:
    """Put a finished receipt into the audit log, once."""
    if any(row.detail.get("receipt") == draft.receipt.id for row in queries.audited(transaction.connection, FINISHED)):
        return
    cube = draft.cubes[0] if len(draft.cubes) == 1 else ""
    transaction.audit(FINISHED, cube, draft.receipt.erased, **told)


# --- fetching -------------------------------------------------------------------------------------------------------


def fetch(parts: Parts, id: str, caller: Caller) -> Receipt:
    """A receipt by its id: for the owner of the store, and for whoever erased. One without `finished_at` is a draft.

    Raises:
        NotFound: there is none with this id for this caller.
    """
    with parts.vault.reading() as connection:
        found = [row for row in queries.audited(connection, ERASE) if row.detail.get("receipt") == id]
        if found and (caller.principal.owner or found[0].actor == caller.principal.name):
            return _latest(parts, connection, found[0], caller)
    raise NotFound(f"no receipt {id!a} is known here: `memos-mcp receipt list` shows those that there are")


def fetch_all(parts: Parts, caller: Caller) -> tuple[Receipt, ...]:
    """Every receipt, the last erasure last. Raises `NotAllowed`: it is for the owner of the store."""
    if not caller.principal.owner:
        raise NotAllowed("listing receipts is for the owner of the store: fetch yours by its id")
    with parts.vault.reading() as connection:
        done = {row.detail["receipt"]: row for row in queries.audited(connection, FINISHED)}
        rows = [row for row in queries.audited(connection, ERASE) if row.detail.get("receipt")]
    return tuple(
        from_plain(done[row.detail["receipt"]].detail["document"])
        if row.detail["receipt"] in done
        else draft_of(row, parts.vault.store_id).receipt
        for row in rows
    )


def follow_ups(parts: Parts, id: str) -> frozenset[str]:
    """The ids of the work that an erasure asked for: adapters trained anew, and KV built anew, without it."""
    with parts.vault.reading() as connection:
        rows = [row for row in queries.audited(connection, ERASE) if row.detail.get("receipt") == id]
        adapters = {artifact for row in rows for artifact in row.detail.get("adapters", ())}
        work = all_work(connection)
    return frozenset(row.id for row in work if row.header.get("receipt") == id or row.header.get("instead") in adapters)


def verified(parts: Parts, raw: bytes) -> VerifiedReceipt:
    """As `verify_receipt`, and whether the audit log of this store holds this very receipt."""
    found = verify_receipt(parts.vault.settings, raw)
    with parts.vault.reading() as connection:
        rows = [row for row in queries.audited(connection, FINISHED) if row.detail["receipt"] == found.receipt.id]
    kept = [row.detail.get(name) for row in rows for name in ("document", "shown")]
    return replace(found, noted=plain(found.receipt) in kept)


def _latest(parts: Parts, connection: Connection, erased: AuditRow, caller: Caller) -> Receipt:
    draft = draft_of(erased, parts.vault.store_id)
    for row in queries.audited(connection, FINISHED):
        if row.detail.get("receipt") == draft.receipt.id:
            shown = None if caller.principal.owner else row.detail.get("shown")
            return from_plain(shown or row.detail["document"])
    return draft.receipt if caller.principal.owner else _shown(draft.receipt, draft.cubes)
