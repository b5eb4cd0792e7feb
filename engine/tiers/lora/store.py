"""The versions of the adapters of each cube: kept, brought into service, taken out of it, and put into the model.

The vault's rows are the truth: an artifact with its sources, a row that says what the version knows and whether it
serves, and a blob with the weights. At most one version of a cube serves, and only one that passed the gate here.

torch is loaded with the first adapter that is kept, worn or exported, not before. Who may ask for what is decided
elsewhere. What must stay true: a version whose row is gone says nothing any more: the transaction that takes the row
away kills it in the model before its caller hears of it, and a reply that is under way through it ends with an error.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.clock import Clock, Ids
from engine.errors import Busy, Conflict, Corrupt, Invalid, MemosError, TooLarge
from engine.model_operations import ModelInfo, TierRow
from engine.operations import Caller
from engine.settings import Settings
from engine.tier_operations import AdapterState, AdapterView, Judged
from engine.tiers.lora.headers import header_of, judged_json, packed_metadata, source_pairs, tier_row, view_of
from engine.tiers.lora.versions import are_current, require_passed, rest, row_of
from engine.vault import Change, MemVault, Transaction
from engine.vault.adapters import KIND, AdapterRow, adapters_of, next_version, put_adapter, set_state
from engine.vault.artifacts import ArtifactRow, add_uses, drop_artifacts, put_artifacts, vouch
from engine.vault.blobs import DIGEST_PREFIX, keep_blob, missing_blobs, read_blob
from engine.vault.staging import SHOWN

if TYPE_CHECKING:
    from engine.model.loading import Loaded
    from engine.tiers.lora.files import Card
    from engine.tiers.lora.serving import Resident

ATTACHED = "memos_adapters"  # the model holds its adapters: who unloads it lets go of them
LEAST_READ_BYTES = 1_000_000  # a file is a little larger than what is in it
log = logging.getLogger(__name__)

Extra = Callable[[Transaction, AdapterRow], None]


@dataclass(frozen=True, slots=True)
class Made:
    """An adapter that is to be kept. `card` names the base model and the sources, with what the gate found known."""

    cube: str
    config: Any  # PEFT's
    tensors: Mapping[str, Any]  # by PEFT's names
    card: Card
    judged: Judged | None  # None: nobody judged it
    caller: Caller
    made: str = "distilled"  # or how it was fused
    action: str = "distil"  # of the audit row
    parents: tuple[str, ...] = ()  # ids of adapters
    seconds: float = 0.0
    peak_bytes: int = 0
    subjects: tuple[str, ...] = ()  # that it can be asked about; they are dropped with it
    activate: bool = True  # where it passed
    reason: str | None = None
    left_out: tuple[tuple[str, int, str], ...] = ()  # memories that were to be taught, with their versions: why not

    @property
    def sources(self) -> tuple[tuple[str, int], ...]:
        return tuple((one.id, one.version) for one in self.card.sources)

    @property
    def passed(self) -> bool:
        return self.judged is not None and not self.judged.why


class AdapterStore:
    """All versions of the adapters of one vault, and which of them are in the model that is loaded."""

    def __init__(self, vault: MemVault, settings: Settings, clock: Clock, ids: Ids) -> None:
        self._vault, self._settings, self._clock, self._ids = vault, settings, clock, ids
        self._lock = threading.Lock()
        self._serving: dict[str, AdapterRow | None] = {}
        self._generation = 0  # of changes
        self._worn: set[str] = set()  # artifacts that are, or are about to be, in the model
        self._refused: dict[str, str] = {}  # artifacts that cannot be worn, and by which model
        self._remarks: dict[str, list[str]] = {}  # by cube
        self._uses: dict[str, int] = {}  # by artifact, since they were noted
        self._resident: weakref.ReferenceType[Resident] | None = None

    # --- looking -----------------------------------------------------------------------------------------------

    def rows(self, cube: str | None = None) -> list[AdapterRow]:
        """The versions of a cube, or of all, oldest first; those that are gone, too."""
        with self._vault.reading() as connection:
            return adapters_of(connection, cube)

    def row(self, cube: str, version: int = 0) -> AdapterRow:
        """One version that is there; 0: the one that serves.

        Raises:
            NotFound: there is none.
        """
        with self._vault.reading() as connection:
            return row_of(connection, cube, version)

    def views(self, cube: str, model_fingerprint: str = "") -> tuple[AdapterView, ...]:
        """As people see them. `model_fingerprint`: of the model that is loaded; empty: none is."""
        return tuple(view_of(row, model_fingerprint) for row in self.rows(cube))

    def tier_rows(self, cube: str, info: ModelInfo | None) -> tuple[TierRow, ...]:
        """The versions that are there, as rows of the tiers."""
        model = info.fingerprint if info is not None else ""
        with self._vault.reading() as connection:
            uses = dict(connection.execute("SELECT id, uses FROM artifacts WHERE cube = ?", [cube]).fetchall())
            rows = [row for row in adapters_of(connection, cube) if row.artifact in uses]
        return tuple(tier_row(row, model, uses[row.artifact] or 0) for row in rows)

    def serving(self, cube: str) -> AdapterRow | None:
        """The version of a cube that serves, if one does."""
        with self._lock:
            if cube in self._serving:
                return self._serving[cube]
            generation = self._generation
        found = next((row for row in self.rows(cube) if row.state is AdapterState.SERVING), None)
        with self._lock:
            if generation == self._generation:
                self._serving[cube] = found
        return found

    def remarks(self, cubes: Collection[str] | None = None) -> tuple[str, ...]:
        """What was refused, in words, each told once; of these cubes, or of all."""
        with self._lock:
            wanted = [cube for cube in self._remarks if cubes is None or cube in cubes]
            return tuple(text for cube in wanted for text in self._remarks.pop(cube))

    # --- keeping -----------------------------------------------------------------------------------------------

    def keep(self, made: Made, transaction_extra: Extra | None = None) -> AdapterRow | None:
        """Store an adapter as the next version of its cube; it serves if it is to and passed.

        None: a memory that it was made from is another one by now, so nothing was stored. What `transaction_extra` does
        is done in the same transaction.
        """
        from engine.tiers.lora.blobs import encode

        content = encode(made.config, made.tensors, made.card)
        id, digest = self._ids.new("a"), _digest(content)

        def job(transaction: Transaction) -> AdapterRow | None:
            if not are_current(transaction.connection, made.sources):
                return None
            now = transaction.now
            state = AdapterState.RESTING if made.passed or made.judged is None else AdapterState.FAILED
            if made.passed and made.activate:
                state = AdapterState.SERVING
            header = header_of(made, digest, len(content), now)
            row = AdapterRow(id, made.cube, next_version(transaction, made.cube), state, header, now)
            sources = source_pairs(row)
            revision = transaction.audit(
                made.action,
                made.cube,
                [memory for memory, _ in sources],
                reason=made.reason,
                adapter=id,
                version=row.version,
                standing=state.value,
                made=made.made,
            )
            about = packed_metadata(made)
            artifact = ArtifactRow(id, made.cube, KIND, made.card.model, digest, len(content), sources, about, now)
            put_artifacts(transaction, [artifact], revision)
            if state is AdapterState.SERVING:
                rest(transaction, made.cube)
            put_adapter(transaction, row)
            self._drop_old(transaction, made.cube, id)
            if transaction_extra is not None:
                transaction_extra(transaction, row)
            self._settled(transaction)
            return row

        self._keep_blob(digest, content)
        kept = self._vault.write(job, made.caller)
        if kept is None:
            self._sweep_blob(digest)
        else:
            self._keep_blob(digest, content)  # if the last other row that needed it went in between
        return kept

    def judge(self, row: AdapterRow, judged: Judged, known: Collection[str], caller: Caller) -> AdapterRow:
        """Note what the gate found of a version that is there; one that serves and failed serves no more.

        Raises:
            NotFound: it is gone.
        """

        def job(transaction: Transaction) -> AdapterRow:
            found = row_of(transaction.connection, row.cube, row.version)
            sources = [[id, version, id in known] for id, version in source_pairs(found)]
            state = AdapterState.FAILED if judged.why else found.state
            if not judged.why and state is AdapterState.FAILED:
                state = AdapterState.RESTING
            header = {**found.header, "sources": sources, "judged": judged_json(judged)}
            changed = replace(found, state=state, header=header, changed_at=transaction.now)
            put_adapter(transaction, changed)
            vouch(transaction, row.artifact)
            passed = not judged.why
            transaction.audit("judge_adapter", row.cube, adapter=row.artifact, version=row.version, passed=passed)
            self._settled(transaction)
            return changed

        return self._vault.write(job, caller)

    # --- service -----------------------------------------------------------------------------------------------

    def activate(self, cube: str, version: int | None, caller: Caller, reason: str | None = None) -> AdapterRow | None:
        """Let a version serve in place of the one that does; None: none serves any more.

        Raises:
            NotFound: there is no such version.
            Conflict: it did not pass the gate here.
        """

        def job(transaction: Transaction) -> AdapterRow | None:
            row = None if version is None else row_of(transaction.connection, cube, version)
            if row is not None:
                require_passed(transaction.connection, row)
            if row is not None and row.state is AdapterState.SERVING:
                return row
            rest(transaction, cube)
            transaction.audit("activate_adapter", cube, reason=reason, version=None if row is None else row.version)
            if row is not None:
                set_state(transaction, row.artifact, AdapterState.SERVING)
                row = replace(row, state=AdapterState.SERVING, changed_at=transaction.now)
            self._settled(transaction)
            return row

        return self._vault.write(job, caller)

    def drop(self, cube: str, version: int | None, caller: Caller, reason: str | None = None) -> int:
        """Drop a version, or all of a cube; how many there were.

        Raises:
            NotFound: there is no such version.
        """

        def job(transaction: Transaction) -> int:
            rows = [row for row in adapters_of(transaction.connection, cube) if row.state is not AdapterState.GONE]
            if version is not None:
                rows = [row_of(transaction.connection, cube, version)]
            if rows:
                transaction.audit("drop_adapter", cube, reason=reason, versions=[row.version for row in rows])
                drop_artifacts(transaction, [row.artifact for row in rows])
                self._settled(transaction)
            return len(rows)

        return self._vault.write(job, caller)

    def export(self, row: AdapterRow, folder: Path) -> Path:
        """Write a version as a plain PEFT folder, which must not be there yet.

        Raises:
            Conflict: there is something in that place.
            Corrupt: its weights are damaged.
        """
        from engine.tiers.lora.blobs import decode
        from engine.tiers.lora.files import Source, write_adapter

        config, tensors, card = decode(self._content(row), row.artifact, str(row.header["model"]))
        sources = tuple(Source(*told) for told in row.header["sources"])  # as they are called, and were judged, here
        write_adapter(folder, config, tensors, replace(card, sources=sources))
        return folder

    # --- on the model's thread -----------------------------------------------------------------------------------

    def resident(self, loaded: Loaded) -> Resident:
        """The adapters that are in this model."""
        found: Resident | None = getattr(loaded.model, ATTACHED, None)
        if found is None:
            from engine.tiers.lora.serving import Resident

            found = Resident(loaded, self._settings.lora_ram_bytes)
            setattr(loaded.model, ATTACHED, found)
        with self._lock:
            self._resident = weakref.ref(found)
        found.bury()
        return found

    def worn(self, loaded: Loaded, row: AdapterRow) -> Loaded | None:
        """The model as seen through a version, which is put into it if need be; None: it cannot be, see `remarks`."""
        if not self._settings.lora or self._refused.get(row.artifact) == loaded.info.fingerprint:
            return None
        resident = self.resident(loaded)
        with self._lock:
            self._worn.add(row.artifact)  # known before the vault is asked: a change that comes later kills it
        try:
            if row.artifact not in {one.name for one in resident.adapters}:
                if not self._is_there(row.artifact):
                    return None
                self._put_in(resident, row)
            resident.require_alive(row.artifact)
        except MemosError as error:
            self._refuse(row, loaded.info.fingerprint, error)
            return None
        return resident.wearing(row.artifact)

    def _put_in(self, resident: Resident, row: AdapterRow) -> None:
        from engine.tiers.lora.blobs import decode

        model = resident.base.info.fingerprint
        if row.header["model"] != model:
            raise Conflict(
                f"the adapter of cube {row.cube!r} (version {row.version}) was made for another model than the one "
                "that is loaded and is not used: load that model, or train on the memories anew"
            )
        if int(row.header["bytes"]) > max(self._settings.lora_ram_bytes, LEAST_READ_BYTES):
            raise TooLarge(
                f"the adapter of cube {row.cube!r} (version {row.version}) has {row.header['bytes']} bytes, more than "
                f"adapters may take ({self._settings.lora_ram_bytes}): raise MEMOS_LORA_RAM_MB"
            )
        try:
            config, tensors, card = decode(self._content(row), row.artifact, model)
        except MemoryError as error:
            raise Busy(
                f"there is not enough memory to read the adapter of cube {row.cube!r} (version {row.version}) now: ask "
                "again when other programs use less"
            ) from error
        resident.take(row.artifact, config, tensors, card)

    def _content(self, row: AdapterRow) -> bytes:
        return b"".join(read_blob(self._settings, str(row.header["blob"]), self._vault.sealer))

    def _refuse(self, row: AdapterRow, model: str, error: MemosError) -> None:
        """Say why a version cannot be worn; one that never can be is not tried again."""
        text = str(error)
        if isinstance(error, Corrupt):
            text = f"the adapter of cube {row.cube!r} (version {row.version}) is damaged and is not used: {error}"
        log.info("%s", text)
        with self._lock:
            if isinstance(error, Corrupt | Conflict | Invalid):
                self._refused[row.artifact] = model
            said = self._remarks.setdefault(row.cube, [])
            if text not in said:
                said.append(text)

    def _is_there(self, artifact: str) -> bool:
        return bool(self._vault.rows(f"SELECT 1 FROM artifacts WHERE id = ? AND {SHOWN}", [artifact]))

    # --- uses --------------------------------------------------------------------------------------------------

    def use(self, row: AdapterRow) -> None:
        """A reply went through it."""
        with self._lock:
            self._uses[row.artifact] = self._uses.get(row.artifact, 0) + 1

    def note_uses(self) -> None:
        """Write down how often versions were used."""
        with self._lock:
            uses, self._uses = self._uses, {}
        if uses:
            self._vault.write(lambda transaction: add_uses(transaction, uses), Caller())

    @property
    def has_dead(self) -> bool:
        """Whether weights of a version that is gone lie in the model still."""
        with self._lock:
            resident = self._resident() if self._resident is not None else None
        return resident is not None and resident.has_dead

    # --- changes -----------------------------------------------------------------------------------------------

    def committed(self, changes: Sequence[Change], transaction: Transaction) -> None:
        """Before a writing call returns: what it took away is said by no adapter any more."""
        with self._lock:
            self._generation += 1
            self._serving.clear()
            worn = set(self._worn)
            resident = self._resident() if self._resident is not None else None
        if not worn or not (transaction.unneeded or transaction.invalidated or transaction.erasing):
            return
        there = {row[0] for row in transaction.rows(f"SELECT id FROM artifacts WHERE kind = ? AND {SHOWN}", [KIND])}
        gone = worn - there
        if gone and resident is not None:
            resident.kill(gone)
        with self._lock:
            self._worn -= gone

    def _settled(self, transaction: Transaction) -> None:
        """What is known of serving versions is read anew when this transaction is durable."""

        def forget() -> None:
            with self._lock:
                self._generation += 1
                self._serving.clear()

        transaction.after(forget)

    def _drop_old(self, transaction: Transaction, cube: str, latest: str) -> None:
        """Let go of the oldest versions beyond those that are kept; never of the one that serves, or came last."""
        rows = [row for row in adapters_of(transaction.connection, cube) if row.state is not AdapterState.GONE]
        free = [row for row in rows if row.state is not AdapterState.SERVING and row.artifact != latest]
        surplus = len(rows) - self._settings.lora_kept
        drop_artifacts(transaction, [row.artifact for row in free[: max(0, surplus)]])

    def _keep_blob(self, digest: str, content: bytes) -> None:
        if missing_blobs(self._settings, [digest], self._vault.sealer):
            keep_blob(self._settings, digest, [content], self._vault.sealer)

    def _sweep_blob(self, digest: str) -> None:
        """Remove a blob that no row came to name."""

        def job(transaction: Transaction) -> None:
            transaction.unneeded.add(digest)

        self._vault.write(job, Caller())


def _digest(content: bytes) -> str:
    return DIGEST_PREFIX + hashlib.sha256(content).hexdigest()
