"""Which embedder answers, and how the vault's vectors follow when it changes.

The vault names one *active* embedder: the one whose vectors queries are compared with. When another one is configured,
queries go on with the old model and the old vectors, new memories get both, and a background task gives every memory a
vector of the new model; only when none is missing does the new embedder become active, in one transaction. All of that
survives a restart, because what is missing is read from the vault.

Without a model, memory is kept and recalled by words alone, and every recall says so. Vectors that were stored stay.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cubes import Memory
from engine.errors import Corrupt, Unavailable
from engine.index.embedder import Embedder, open_embedder
from engine.index.passages import PASSAGES_VERSION, passages
from engine.operations import Caller, Principal
from engine.settings import Settings
from engine.vault import MemVault, Transaction, queries
from engine.vault.staging import SHOWN

Vectors = NDArray[np.float32]
SYSTEM = Caller(Principal("memos", owner=True))
BATCH_MEMORIES = 64
SLICE_MEMORIES = 8  # embedded without a pause: what is more urgent than vectors waits no longer than for these
CHANGING = "lexical only: the index is changing to another embedder, ask again in a moment"
log = logging.getLogger(__name__)


def fingerprint(embedder: Embedder) -> str:
    """What vectors depend on: the model, and how contents are cut into passages."""
    return f"{embedder.fingerprint}+p{PASSAGES_VERSION}"


class Embeddings:
    """The embedder that is configured, the one that is active, and the way from one to the other."""

    def __init__(self, vault: MemVault, settings: Settings, announce: Callable[[str], None]) -> None:
        self._vault = vault
        self._settings = settings
        self._announce = announce
        self._lock = threading.Lock()
        self.missing_reason: str | None = None
        self.configured = self._open(settings)
        self._stored = self._active_row()
        self.answering = self._answering()
        self._lacking = self.missing()

    def _open(self, settings: Settings) -> Embedder | None:
        try:
            return open_embedder(settings, self._announce)
        except (Unavailable, Corrupt) as error:
            self.missing_reason = str(error)
            log.warning("no embedder: %s", error)
            return None

    def _active_row(self) -> tuple[str, str, int] | None:
        rows = self._vault.rows("SELECT fingerprint, source, dimension FROM embedders WHERE active")
        return (rows[0][0], rows[0][1], rows[0][2]) if rows else None

    def _answering(self) -> Embedder | None:
        """The model that matches the vectors in the vault, if it can be had."""
        if self.configured is None or self._stored is None or self._stored[0] == fingerprint(self.configured):
            return self.configured
        try:
            old = open_embedder(replace(self._settings, embedder=self._stored[1], offline=True), self._announce)
        except (Unavailable, Corrupt) as error:
            log.warning("the embedder of the stored vectors is gone: %s", error)
            return None
        return old if fingerprint(old) == self._stored[0] else None

    @property
    def stored(self) -> tuple[str, str, int] | None:
        """Fingerprint, source and dimension of the vectors that the vault holds; None: it holds none yet."""
        return self._stored

    @property
    def active(self) -> str | None:
        """Fingerprint of the vectors that queries are compared with; None: there are none."""
        if self._stored is not None:
            return self._stored[0]
        return None if self.configured is None else fingerprint(self.configured)

    @property
    def dimension(self) -> int | None:
        if self._stored is not None:
            return self._stored[2]
        return None if self.configured is None else self.configured.dimension

    @property
    def name(self) -> str | None:
        return None if self.configured is None else self.configured.name

    @property
    def moving(self) -> bool:
        """Whether the vault's vectors are on their way to another embedder."""
        return (
            self.configured is not None and self._stored is not None and self._stored[0] != fingerprint(self.configured)
        )

    def degraded(self) -> str | None:
        """What a recall lacks now, in words, or None."""
        if self.configured is None:
            return f"lexical only: {self.missing_reason}"
        answering = self.answering
        if answering is None:
            return "lexical only until every memory has a vector of the new embedder, which is under way"
        if fingerprint(answering) != self.active:
            return CHANGING
        if self._lacking and not self.moving:
            return (
                f"{self._lacking} memories are found by their words alone until they are embedded, which is under way"
            )
        return None

    # --- embedding ---------------------------------------------------------------------------------------------

    def query(self, text: str) -> tuple[str, Vectors] | None:
        """The vector of a query, shape [dimension], and the fingerprint of the vectors that it may be compared with."""
        model = self.answering
        if model is None:
            return None
        found = self._embed(model, [text])
        return None if found is None else (fingerprint(model), found[0])

    def of_texts(self, texts: Sequence[str]) -> tuple[Vectors, str]:
        """The vector of each text, [texts, dimension] with L2 norm 1, and the embedder's name.

        That of a text of several passages is their mean.

        Raises:
            Unavailable: there is no embedder; with what to do.
        """
        model = self.answering or self.configured
        found = self._passages(model, texts) if model is not None else None
        if model is None or found is None:
            raise Unavailable(f"there is no embedder: {self.missing_reason or 'it is not loaded'}")
        means = np.stack([vectors.mean(axis=0) for vectors in found])
        return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12), model.name

    def contents(self, texts: Sequence[str | None]) -> dict[str, list[Vectors]]:
        """Passage vectors of contents, [passages, dimension] each, under each fingerprint that is written now.

        None stands for a content that is not embedded (the whole of a long text) and gets no passages.
        """
        models = [model for model in (self.configured, self.answering) if model is not None]
        return {
            fingerprint(model): found
            for model in dict.fromkeys(models)
            if (found := self._passages(model, texts)) is not None
        }

    def _passages(self, model: Embedder, texts: Sequence[str | None]) -> list[Vectors] | None:
        cut = [[] if text is None else passages(text) for text in texts]
        wanted = [passage for parts in cut for passage in parts]
        flat = self._embed(model, wanted) if wanted else np.zeros((0, model.dimension), dtype=np.float32)
        if flat is None:
            return None
        bounds = np.cumsum([len(parts) for parts in cut])[:-1]
        return list(np.split(flat, bounds))

    def _embed(self, model: Embedder, texts: Sequence[str]) -> Vectors | None:
        try:
            return model.embed(texts)
        except (Unavailable, Corrupt) as error:
            with self._lock:
                self.missing_reason = str(error)
                self.configured = None if model is self.configured else self.configured
                self.answering = None if model is self.answering else self.answering
            log.error("the embedder failed: %s", error)
            return None

    # --- keeping the vault's vectors complete ------------------------------------------------------------------

    def write(self, transaction: Transaction, ids: Sequence[str], found: dict[str, list[Vectors]]) -> None:
        """Store the vectors of `contents`; the first vectors of an empty vault make their embedder active."""
        for print_, vectors in found.items():
            transaction.embed(list(zip(ids, vectors, strict=True)), print_)
        if found:
            self.claim(transaction)

    @property
    def wanted(self) -> str | None:
        """Fingerprint of the configured embedder, if there is one."""
        return None if self.configured is None else fingerprint(self.configured)

    def no_vectors(self) -> Vectors:
        """What the whole of a long text has: shape [0, dimension]."""
        return np.zeros((0, self.dimension or 0), dtype=np.float32)

    def claim(self, transaction: Transaction) -> None:
        """Make the configured embedder the active one where no other is: its first vectors are stored."""
        if self._stored is None and self.configured is not None:
            row = (fingerprint(self.configured), self._settings.embedder, self.configured.dimension)
            transaction.insert(
                "embedders", ("fingerprint", "source", "dimension", "active"), [(*row, True)], replace_=True
            )
            transaction.after(lambda: self._set_stored(row))

    def _set_stored(self, row: tuple[str, str, int]) -> None:
        self._stored = row

    def missing(self) -> int:
        """How many memories have no vector of the configured embedder."""
        if self.configured is None:
            return 0
        rows = self._vault.rows(
            f"SELECT count(*) FROM memories WHERE id NOT IN (SELECT id FROM embeddings WHERE embedder = ?) AND {SHOWN}",
            [fingerprint(self.configured)],
        )
        return int(rows[0][0])

    def awaits(self, count: int) -> None:
        """So many memories more lack vectors: recall says so until the background has filled them in."""
        with self._lock:
            self._lacking = 0 if self.configured is None else max(0, self._lacking + count)

    def fill(self, stopped: Callable[[], bool], applied: Callable[[str, Vectors], None]) -> bool:
        """Give every memory a vector of the configured embedder, in small transactions; True: none is missing.

        `applied(id, vectors)` is told, on the writer thread, of vectors that the active index should have.
        """
        while self.configured is not None and not stopped():
            model, print_, noted = self.configured, fingerprint(self.configured), self._lacking
            with self._vault.reading() as connection:
                lacking = [record.memory for record in queries.lacking_vectors(connection, print_, BATCH_MEMORIES)]
            if not lacking:
                self.awaits(-noted)  # not 0: others may have been stored meanwhile
                return True
            vectors: list[Vectors] = []
            while len(vectors) < len(lacking) and not (vectors and stopped()):
                some = lacking[len(vectors) : len(vectors) + SLICE_MEMORIES]
                found = self._passages(model, [None if m.descriptive.parts else m.content for m in some])
                if found is None:
                    return False
                vectors += found
            lacking = lacking[: len(vectors)]
            self._vault.write(self._filling(model, print_, lacking, vectors, applied), SYSTEM)
            self.awaits(-len(lacking))
        return False

    def _filling(
        self,
        model: Embedder,
        print_: str,
        lacking: Sequence[Memory],
        vectors: Sequence[Vectors],
        applied: Callable[[str, Vectors], None],
    ) -> Callable[[Transaction], None]:
        def job(transaction: Transaction) -> None:
            current = transaction.records(memory.id for memory in lacking)
            good = [
                (memory.id, found)
                for memory, found in zip(lacking, vectors, strict=True)
                if memory.id in current and current[memory.id].memory.content == memory.content
            ]
            self.write(transaction, [id for id, _ in good], {print_: [found for _, found in good]})
            if self.active == print_ and model is self.answering:
                for id, found in good:
                    transaction.after(lambda id=id, found=found: applied(id, found))  # type: ignore[misc]

        return job

    @property
    def target(self) -> tuple[str, int] | None:
        """Fingerprint and dimension of the embedder that the vectors are on their way to; None: they are there."""
        configured = self.configured
        if configured is None or not self.moving:
            return None
        return fingerprint(configured), configured.dimension

    def switch(self, adopt: Callable[[], None]) -> bool:
        """Make the configured embedder the active one if no memory lacks its vector; the old vectors go.

        `adopt` is called on the writer thread when it is: indexes of the new vectors answer from then on. Returns
        whether it came to that.
        """
        configured = self.configured
        if configured is None or not self.moving:
            return False
        row = (fingerprint(configured), self._settings.embedder, configured.dimension)

        def job(transaction: Transaction) -> bool:
            lacking = transaction.rows(
                f"SELECT count(*) FROM memories WHERE {SHOWN} AND id NOT IN"
                " (SELECT id FROM embeddings WHERE embedder = ?)",
                [row[0]],
            )
            if lacking[0][0]:
                return False
            transaction.audit("embedder", "", [], embedder=row[0])
            transaction.execute("DELETE FROM embedders")
            transaction.execute("DELETE FROM embeddings WHERE embedder <> ?", [row[0]])
            transaction.insert("embedders", ("fingerprint", "source", "dimension", "active"), [(*row, True)])
            transaction.after(lambda: self._set_stored(row))
            transaction.after(adopt)
            transaction.after(lambda: self._set_answering(configured))
            return True

        return self._vault.write(job, SYSTEM)

    def _set_answering(self, model: Embedder) -> None:
        self.answering = model
