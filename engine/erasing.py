"""What one erasure does inside its transaction: which memories hold the content, and what goes from which table.

Lineage decides what is erased with a memory: pieces with their whole, a fused memory with its parents. The rules stand
in `engine.forgetting`, which also removes the copies that lie in files.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cubes import Action, Memory, Relation, State
from engine import receipts
from engine.errors import NotAllowed, NotFound
from engine.lifecycle.states import LIVE, Step, after, state_after
from engine.operations import AdapterGone, ForgetResult, Forgotten, Mode, Receipt
from engine.parts import Parts, may, memory_key
from engine.text.claims import normal_form
from engine.text.words import stems
from engine.tier_operations import AdapterState
from engine.vault import Transaction, queries
from engine.vault.adapters import KIND as ADAPTER
from engine.vault.adapters import adapters_of
from engine.vault.artifacts import CONVERSATION, ArtifactRow, outdated_artifacts
from engine.vault.rows import Record
from engine.vault.work import REBUILD, RETRAIN, all_work, ask_for, put_work

Unlearned = Callable[[Mapping[str, Sequence[Memory]]], None]  # is told what adapters knew of it, by their ids
ERASED = "[erased]"
WITHHELD = "(withheld: the reason repeated what was erased)"
ABOUT = "(withheld: it was about what was erased)"
TELLING_STEMS = 2  # a reason that shares so many words with what is erased tells some of it
REPEATED_WORDS = 4  # a reason of so many words that stand in the memory in that order repeats it
KV = "kv"  # as `engine.tiers.kv` calls its artifacts
PENDING = "erasing"  # the vault's note that an erasure was committed and its copies are still to be removed


def note_pending(transaction: Transaction, cubes: Iterable[str], revision: int, receipt: str | None = None) -> None:
    """Note in the vault that copies of what was erased from `cubes` are still to be removed, and the receipt finished.

    The note says which erasure was the last, so that a clean-up that began before it does not take it for done.
    """
    rows = transaction.rows("SELECT value FROM meta WHERE key = ?", [PENDING])
    noted = json.loads(rows[0][0]) if rows else {"cubes": ()}
    value = {
        "cubes": sorted({*noted["cubes"], *cubes}),
        "receipts": [*noted.get("receipts", ()), *([] if receipt is None else [receipt])],
        "revision": revision,
    }
    transaction.insert("meta", ("key", "value"), [(PENDING, json.dumps(value))], replace_=True)


@dataclass(slots=True)
class Erasure:
    """One erasure, inside its transaction."""

    parts: Parts
    transaction: Transaction
    named: Sequence[Record]
    missing: tuple[str, ...]
    reason: str | None
    unlearned: Unlearned = lambda known: None
    gone: dict[str, Record] = field(default_factory=dict)
    blanked: dict[str, Record] = field(default_factory=dict)  # wholes that lose a piece
    freed: dict[str, Record] = field(default_factory=dict)  # parents whose fused memory goes

    def run(self) -> ForgetResult:
        if not self.named:
            return ForgetResult(not_found=self.missing)
        self.collect()
        self.check_rights()
        for record in (*self.gone.values(), *self.blanked.values()):
            after(record.memory, Step.ERASE)
        receipt = self._erase()
        forgotten = tuple(Forgotten(id, Mode.ERASE) for id in self.gone)
        return ForgetResult(forgotten=forgotten, not_found=self.missing, receipt=receipt)

    def check_rights(self) -> None:
        """Refuse where more would go than the caller may change. What that is, is not said: it may not see it."""
        named = {record.memory.id for record in self.named}
        for record in (*self.gone.values(), *self.blanked.values()):
            try:
                may(self.transaction, record, Action.WRITE)
            except (NotFound, NotAllowed) as error:
                if record.memory.id in named:
                    raise
                raise NotAllowed(
                    "what is to be erased is also in what you may not change: who administers the cube has to erase "
                    "it; nothing was erased"
                ) from error

    def collect(self) -> None:
        """Follow lineage to everything that holds the content of what was named: after this, `gone` is known."""
        self.gone = {record.memory.id: record for record in self.named}
        cubes = {record.memory.cube for record in self.named}
        waiting = list(self.gone)
        while waiting:
            around = [*self._sources(waiting), *self._derived(waiting)]
            reached = self.transaction.records(id for pair in around for id in pair)
            # Between cubes only what was fused here is followed: a bundle can claim any lineage.
            sure = queries.made_here(self.transaction.connection, around)
            near = [
                id
                for pair in around
                for id in pair
                if id in reached and id not in self.gone and (reached[id].memory.cube in cubes or pair in sure)
            ]
            waiting = list(dict.fromkeys(near))
            self.gone.update({id: reached[id] for id in waiting})
        self._find_wholes()
        self._find_freed()

    def _sources(self, ids: Sequence[str]) -> list[tuple[str, str]]:
        """(fused or drawn memory that was named, parent): the parents hold what it says.

        Where parents were named beside it, these are what is meant: the others are freed.
        """
        named = {record.memory.id for record in self.named}
        pairs: list[tuple[str, str]] = []
        for id in named.intersection(ids):
            for relation in (Relation.FUSED_FROM, Relation.DERIVED_FROM):
                parents = queries.sources_of(self.transaction.connection, [id], relation)
                if named.isdisjoint(parents):
                    pairs += [(id, parent) for parent in parents]
        return pairs

    def _derived(self, ids: Sequence[str]) -> list[tuple[str, str]]:
        """(what holds some of the content, what it was made of)."""
        kinds = (Relation.PART_OF, Relation.FUSED_FROM, Relation.DERIVED_FROM)
        edges = queries.derived_from(self.transaction.connection, ids)
        return [(id, edge.source) for id, edge in edges if edge.relation in kinds]

    def _behind(self, relation: Relation) -> dict[str, Record]:
        """What goes stands in `relation` to these, which stay."""
        ids = queries.sources_of(self.transaction.connection, list(self.gone), relation)
        return self.transaction.records(id for id in ids if id not in self.gone)

    def _find_wholes(self) -> None:
        cubes = {record.memory.cube for record in self.gone.values()}
        found = self._behind(Relation.PART_OF)
        self.blanked = {id: record for id, record in found.items() if record.memory.cube in cubes}

    def _find_freed(self) -> None:
        merged = {
            id: record
            for id, record in self._behind(Relation.FUSED_FROM).items()
            if record.memory.state is State.MERGED and not record.memory.governance.frozen
        }
        self.freed = {id: record for id, record in merged.items() if not self._held(id)}

    def _held(self, id: str) -> bool:
        """Whether another fused memory stands for it, one that stays."""
        edges = queries.derived_from(self.transaction.connection, [id])
        others = [other for other, edge in edges if edge.relation is Relation.FUSED_FROM and other not in self.gone]
        return any(record.memory.state in LIVE for record in self.transaction.records(others).values())

    def _erase(self) -> Receipt:
        transaction, vault = self.transaction, self.parts.vault
        texts = self._texts()
        cubes = sorted({record.memory.cube for record in (*self.gone.values(), *self.blanked.values())})
        revision = transaction.head.seq + 1  # of the audit row below, which says what was done
        self._blank(revision)
        removed = transaction.erase(list(self.gone.values()), revision)
        removed["operations"] = self._forget_answers()
        self._forget_words(cubes, texts)
        for record in self.freed.values():
            transaction.move(record, state_after(record.memory, Step.RESTORE), "unfuse", revision)
        derived = list(outdated_artifacts(transaction).values())
        receipt = Receipt(
            id=self.parts.ids.new("r"),
            at=transaction.now,
            erased=tuple(self.gone),
            digests=tuple(f"hmac-sha256:{vault.keyed(text).hex()}" for text in texts),
            removed=tuple((name, count) for name, count in sorted(removed.items()) if count),
            audit_seq=revision,
            store=vault.store_id,
            kv=tuple(sorted(Counter(row.cube for row in derived if row.kind == KV).items())),
            lora=self._adapters([row.id for row in derived if row.kind == ADAPTER]),
        )
        transaction.audit(
            receipts.ERASE,
            cubes[0] if len(cubes) == 1 else "",
            receipt.erased,
            reason=_without(self.reason, texts),
            cubes=cubes,
            adapters=[row.id for row in derived if row.kind == ADAPTER],
            **receipts.drafted(receipt, owner=transaction.caller.principal.owner),
        )
        self._ask_rebuilding(derived, receipt.id)
        known = {
            row.id: [self.gone[id].memory for id, _ in row.sources if id in self.gone]
            for row in derived
            if row.kind == ADAPTER
        }
        if known:
            transaction.after(lambda: self.unlearned(known))
        note_pending(transaction, cubes, revision, receipt.id)
        return receipt

    def _adapters(self, artifacts: Sequence[str]) -> tuple[AdapterGone, ...]:
        """The versions that go with what is erased."""
        rows = [row for row in adapters_of(self.transaction.connection) if row.artifact in artifacts]
        return tuple(AdapterGone(row.cube, row.version, row.state is AdapterState.SERVING) for row in rows)

    def _ask_rebuilding(self, derived: Sequence[ArtifactRow], receipt: str) -> None:
        """Ask for the KV of pinned blocks that go with one of their memories to be built again of the others."""
        blocks: dict[str, dict[str, None]] = {}
        for row in derived:
            left = [id for id, _ in row.sources if id not in self.gone]
            if row.kind == KV and row.cube != CONVERSATION and left:
                blocks.setdefault(row.cube, {}).update(dict.fromkeys(left))
        for cube, ids in sorted(blocks.items()):
            reason = f"a memory beside which they were read was erased (receipt {receipt})"
            header = {"ids": list(ids), "reason": reason, "receipt": receipt}
            ask_for(self.transaction, self.parts.ids.new("w"), cube, REBUILD, header)

    def _texts(self) -> list[str]:
        """Every content that goes, each once."""
        versions = (queries.versions(self.transaction.connection, id) for id in self.gone)
        return sorted({version.memory.content for found in versions for version in found})

    def _blank(self, revision: int) -> None:
        """Take the words of erased pieces out of their wholes, in every version."""
        for id in self.blanked:
            edges = queries.derived_from(self.transaction.connection, [id])
            pieces = [derived for derived, edge in edges if edge.relation is Relation.PART_OF]
            staying = self.transaction.records([piece for piece in pieces if piece not in self.gone])
            kept = {record.memory.descriptive.position: record.memory.content for record in staying.values()}
            for version in queries.versions(self.transaction.connection, id):
                memory = _blanked(version.memory, kept)
                key = memory_key(self.parts.vault, memory)
                self.transaction.overwrite(replace(version, memory=memory, content_key=key), revision)

    def _forget_answers(self) -> int:
        """Recorded answers that name what went: an answer to `fuse` holds content."""
        rows = self.transaction.rows(
            "DELETE FROM operations WHERE list_has_any(from_json(ids, '[\"VARCHAR\"]'), ?)", [list(self.gone)]
        )
        return int(rows[0][0])

    def _forget_words(self, cubes: Sequence[str], texts: Sequence[str]) -> None:
        """Take what was said of work out of its record, where it is about what goes or repeats it."""
        for row in all_work(self.transaction.connection):
            named = row.what not in (RETRAIN, REBUILD) and not self.gone.keys().isdisjoint(_named_by(row.header))
            if not named and row.cube not in cubes:
                continue
            said = {name: row.header[name] for name in ("reason", "told") if row.header.get(name)}
            words = {name: ABOUT if named else _without(str(text), texts) for name, text in said.items()}
            if words != said:
                put_work(self.transaction, replace(row, header={**row.header, **words}))


def _named_by(header: Mapping[str, Any]) -> set[str]:
    """The memories that a record of work names."""
    return {*header.get("ids", ()), *header.get("turns", ()), *(id for id, _ in header.get("sources", ()))}


def _blanked(memory: Memory, kept: Mapping[int | None, str]) -> Memory:
    """The whole as the pieces that stay say it, by their number, and without what was read out of the others.

    Pieces follow one another without a gap. Of what cannot be placed nothing stays.
    """
    about = memory.descriptive
    content = ""
    for number in range(about.parts):
        if number in kept:
            content += kept[number]
        elif not content.endswith(ERASED):
            content += ERASED
    return replace(
        memory,
        content=content,
        descriptive=replace(
            about,
            entities=tuple(entity for entity in about.entities if entity in content),
            mentions=tuple(mention for mention in about.mentions if mention.text in content),
        ),
    )


def lasting(reason: str | None, memories: Iterable[Memory]) -> str | None:
    """The reason as it may go into history and the audit log, which keep it when a memory is erased later."""
    if reason is None:
        return None
    said = normal_form(reason).lower()
    for memory in memories:
        form = normal_form(memory.content).lower()
        if (form and form in said) or (said in form and said.count(" ") >= REPEATED_WORDS - 1):
            return "(withheld: the reason repeated what the memory says)"
    return reason


def lasting_in(parts: Parts, cube: str, reason: str | None) -> str | None:
    """As `lasting`, of what names no memories: with all that a cube holds now."""
    if reason is None:
        return None
    with parts.vault.reading() as connection:
        return lasting(reason, (record.memory for record in queries.live(connection, cube)))


def _without(reason: str | None, texts: Iterable[str]) -> str | None:
    """The reason, unless it repeats what is erased: the audit log is for good."""
    if reason is None:
        return None
    said, told = normal_form(reason).lower(), set(stems(reason))
    for text in texts:
        form = normal_form(text).lower()
        if form and (form in said or said in form or len(told.intersection(stems(text))) >= TELLING_STEMS):
            return WITHHELD
    return reason


def out_of_reach(parts: Parts, cubes: Iterable[str], erased: Iterable[str]) -> tuple[str, ...]:
    """Files that this program made and does not rewrite: backups elsewhere, bundles of these cubes (those that they
    came from, too), adapters that knew it and were written out, and damaged files that were kept aside. Shelves are
    looked after by `engine.store.withdrawing`.
    """
    with parts.vault.reading() as connection:
        told = queries.audited(connection, "backup")
        for action in ("pack", "install", "upgrade"):
            told += [row for row in queries.audited(connection, action) if row.cube in cubes]
        told += [row for row in queries.audited(connection, "export_adapter") if not set(erased).isdisjoint(row.ids)]
    paths = [Path(row.detail.get("path") or row.detail.get("source") or "") for row in told]
    folder = parts.vault.settings.damaged_folder
    kept = sorted(folder.iterdir()) if folder.is_dir() else []
    return tuple(dict.fromkeys(str(path) for path in (*paths, *kept) if path.name and os.path.exists(path)))
