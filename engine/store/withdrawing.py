"""After an erasure: the bundles on shelves that hold what was erased.

On this machine's shelves they are withdrawn: the entry, the index and the bundle, after the audit log has noted it, so
that a process that dies in between does it again. Remote shelves are not asked: nobody named them in this call. What
lies there, or cannot be withdrawn, is told as out of reach. A bundle that somebody else published is theirs: it is
told, too.

Whether a bundle holds a memory is read from the bundle. Where it cannot be read (it was encrypted for others, or is
damaged), it holds what was there when it was published.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cubes.bundle import open_bundle
from cubes.errors import CubeError
from engine import keys
from engine.embeddings import SYSTEM
from engine.errors import MemosError
from engine.parts import Parts
from engine.receipts import Draft, Reached
from engine.store.entries import DIGEST, bundle_place
from engine.store.place import Place, is_url, local_folder, place_of
from engine.store.shelf import MemStore
from engine.vault import queries
from engine.vault.audit import AuditRow

WITHDRAW = "withdraw"
SHORT = 12  # characters of a digest that name a bundle
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Published:
    """A bundle that was put onto a shelf; `seq`: the last audit row that says so."""

    shelf: str
    cube: str
    sha256: str
    seq: int

    @property
    def shown(self) -> str:
        return f"{self.shelf}#{self.cube}@{self.sha256[:SHORT]}"


def take_off(parts: Parts, drafts: Sequence[Draft]) -> dict[str, Reached]:
    """Withdraw what holds something of these erasures; what was, and what could not be, by the id of each receipt."""
    cubes = {cube for draft in drafts for cube in draft.cubes}
    withdrawn: dict[str, list[str]] = {draft.receipt.id: [] for draft in drafts}
    beyond: dict[str, list[str]] = {draft.receipt.id: [] for draft in drafts}
    if drafts:
        with parts.vault.reading() as connection:
            published = _published(queries.audited(connection, "publish"), cubes)
            noted = queries.audited(connection, WITHDRAW)
            fetched = [row for action in ("install", "upgrade") for row in queries.audited(connection, action)]
        for row in noted:  # by a pass that died before it could tell
            for id in withdrawn.keys() & set(row.detail["receipts"]):
                withdrawn[id].append(_told(row))
        for item in published:
            holders = _holders(parts, item, drafts)
            if not holders:
                continue
            gone = _withdraw(parts, item, holders)
            for id in holders:
                (withdrawn if gone else beyond)[id].append(item.shown)
        for draft in drafts:
            beyond[draft.receipt.id] += _sources(fetched, draft.cubes)
    return {
        id: Reached(withdrawn=tuple(dict.fromkeys(withdrawn[id])), out_of_reach=tuple(dict.fromkeys(beyond[id])))
        for id in withdrawn
    }


def _published(rows: Iterable[AuditRow], cubes: set[str]) -> list[_Published]:
    """What was put onto shelves of these cubes, each once."""
    found: dict[tuple[str, str, str], _Published] = {}
    for row in rows:
        shelf, sha256 = str(row.detail.get("shelf", "")), str(row.detail.get("digest", "")).removeprefix("sha256:")
        if row.cube in cubes and shelf and DIGEST.match(sha256):
            found[shelf, row.cube, sha256] = _Published(shelf, row.cube, sha256, row.seq)
    return list(found.values())


def _told(row: AuditRow) -> str:
    return _Published(row.detail["shelf"], row.cube, row.detail["digest"], row.seq).shown


def _holders(parts: Parts, item: _Published, drafts: Sequence[Draft]) -> list[str]:
    """The receipts of the erasures of which the bundle holds something; none where it is not there any more."""
    mine = [draft for draft in drafts if item.cube in draft.cubes]
    file = _file(_place(item), item)
    held: set[str] | None = None
    if file is not None and file.parent.parent.parent.is_dir():  # the shelf is there
        if not file.exists():
            return []
        held = _ids_in(parts, file)
    if held is None:
        born = {draft.receipt.id: _first_noted(parts, draft) for draft in mine}
        return [draft.receipt.id for draft in mine if born[draft.receipt.id] < item.seq]
    return [draft.receipt.id for draft in mine if held.intersection(draft.receipt.erased)]


def _place(item: _Published) -> Place | None:
    try:
        return place_of(item.shelf)
    except MemosError:
        return None


def _file(place: Place | None, item: _Published) -> Path | None:
    """The bundle as a file of this machine; None: it lies elsewhere."""
    folder = None if place is None else local_folder(place)
    return None if folder is None else folder.joinpath(*bundle_place(item.cube, item.sha256))


def _ids_in(parts: Parts, file: Path) -> set[str] | None:
    """The memories in a bundle, and those that its artifacts were made from; None: it cannot be read."""
    try:
        with open_bundle(file, identities=keys.identities(parts.vault.settings)) as bundle:
            found = {memory.id for memory in bundle.memories(vectors=False)}
            return found.union(id for header in bundle.manifest.artifacts for id, _ in header.sources)
    except (CubeError, MemosError, OSError) as error:
        log.info("what %s holds cannot be read: %s", file.name, type(error).__name__)
        return None


def _first_noted(parts: Parts, draft: Draft) -> int:
    """The first row of the audit log that names something of what was erased."""
    rows = parts.vault.rows(
        "SELECT min(seq) FROM audit WHERE list_has_any(from_json(ids, '[\"VARCHAR\"]'), ?::VARCHAR[])",
        [list(draft.receipt.erased)],
    )
    return int(rows[0][0] or draft.receipt.audit_seq)


def _withdraw(parts: Parts, item: _Published, receipts: Sequence[str]) -> bool:
    """Whether it is off its shelf now."""
    place = _place(item)
    file = _file(place, item)
    if place is None or file is None or not file.exists():
        return False
    try:
        parts.vault.write(
            lambda transaction: transaction.audit(
                WITHDRAW, item.cube, shelf=item.shelf, digest=item.sha256, receipts=list(receipts)
            ),
            SYSTEM,
        )
        MemStore(place).withdraw(item.cube, item.sha256)
    except MemosError as error:
        log.error("%s cannot be withdrawn: %s", item.shown, error)
        return False
    return True


def _sources(rows: Iterable[AuditRow], cubes: Sequence[str]) -> list[str]:
    """The shelves from which these cubes were installed: others published there."""
    told: Mapping[str, None] = dict.fromkeys(
        str(row.detail["source"]) for row in rows if row.cube in cubes and "#" in str(row.detail.get("source", ""))
    )
    return [source for source in told if is_url(source) or Path(source.rpartition("#")[0]).is_dir()]
