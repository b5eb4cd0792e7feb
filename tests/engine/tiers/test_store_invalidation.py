"""What was derived from a memory is gone before the call that changes it returns, from RAM and disk, for good."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cubes import Sensitivity
from engine.cube_operations import FuseCubes, Govern
from engine.memos import MemOS
from engine.operations import Fuse, Remember
from engine.settings import Settings
from engine.tiers.kv.compression import compressed
from engine.tiers.kv.store import Scope
from engine.tiers.kv.tensors import Layers
from tests.conftest import HandClock, until
from tests.engine.stores import ME, archive, erase, say
from tests.engine.tiers.caches import Kept, kept, layers_for, model, part, tokens, working

INFO = model()
HOME, WORK, TALK, BEN = Scope.cube("home"), Scope.cube("work"), Scope.talk("owner"), Scope.talk("ben")
PINNED, LATER, OTHER = tokens(64), tokens(160), tokens(64, seed=9)
NOTE = tokens(20, seed=4)


@dataclass
class Derived:
    """A store in which one memory stands in a pinned block, in the conversation behind it, and in a chunk; another
    memory of another cube, and a conversation of somebody else, have nothing to do with it.
    """

    store: Kept
    lamp: str
    clock: HandClock
    settings: Settings

    def keep(self, scope: Scope, ids: Sequence[int], start: int, *sources: tuple[str, int]) -> str | None:
        layers = part(layers_for(ids), start, len(ids))
        return self.store.kv.keep_prefix(INFO, scope, scope.cube_name, ids, layers, start, sources)

    def keep_chunk(self, id: str, version: int = 1, cube: str = "home") -> str | None:
        return self.store.kv.keep_chunk(INFO, cube, id, version, NOTE, layers_for(NOTE), 0.0)

    def derive(self, lamp: str, version: int = 1) -> None:
        assert self.keep(HOME, PINNED, 0, (lamp, version))
        assert self.keep(TALK, LATER, 64, (lamp, version))
        assert self.keep_chunk(lamp, version)

    def of_the_lamp(self) -> tuple[int, int, bool]:
        """What is found of it: tokens of the cube's prefix, of the conversation, and whether there is a chunk."""
        chunk = self.store.kv.chunk(INFO, "home", self.lamp, 1)
        return self.filled(HOME), self.filled(HOME, TALK), chunk is not None

    def filled(self, *scopes: Scope) -> int:
        return self.store.filled(INFO, scopes, LATER)

    def others(self) -> tuple[int, int]:
        return self.store.filled(INFO, [WORK], OTHER), self.store.filled(INFO, [BEN], OTHER)

    def rows(self) -> int:
        return int(self.store.memos._parts.vault.rows("SELECT count(*) FROM artifacts")[0][0])

    def blobs(self) -> int:
        return len([path for path in self.settings.blobs_folder.iterdir() if not path.name.startswith(".")])


@pytest.fixture
def derived(settings: Settings, clock: HandClock) -> Iterator[Derived]:
    with kept(settings, clock) as store:
        lamp = say(store.memos, "The lamp in the hall is red.", cube="home", expires_in_days=30)
        work = say(store.memos, "The office opens at nine.", cube="work")
        found = Derived(store, lamp, clock, settings)
        found.derive(lamp)
        assert found.keep(WORK, OTHER, 0, (work, 1))
        assert found.keep(BEN, OTHER, 0)
        store.kv.flush()
        assert (found.of_the_lamp(), found.others()) == ((64, 160, True), (64, 64))
        assert (found.rows(), found.blobs()) == (5, 5)
        yield found


def supersede(found: Derived) -> None:
    found.store.memos.remember(Remember(content="The lamp is blue.", cube="home", supersedes=(found.lamp,)), ME)


def fuse(found: Derived) -> None:
    other = say(found.store.memos, "The lamp in the hall is bright.", cube="home")
    found.store.memos.fuse(Fuse(ids=(found.lamp, other), content="The lamp is red and bright."), ME)


def expire(found: Derived) -> None:
    found.clock.pass_by(days=31)
    found.store.memos.sweep()


def fuse_cubes(found: Derived) -> None:
    say(found.store.memos, "The boat is green.", cube="boats")
    found.store.memos.fuse_cubes(FuseCubes(("home", "boats"), "both"), ME)


CHANGES: dict[str, Callable[[Derived], object]] = {
    "archived": lambda found: archive(found.store.memos, found.lamp),
    "made more sensitive": lambda found: found.store.memos.govern(
        Govern((found.lamp,), sensitivity=Sensitivity.SECRET), ME
    ),
    "pinned": lambda found: found.store.memos.govern(Govern((found.lamp,), pinned=True), ME),
    "tagged": lambda found: found.store.memos.govern(Govern((found.lamp,), tags=("red",)), ME),
    "superseded": supersede,
    "fused": fuse,
    "expired": expire,
    "moved into another cube": fuse_cubes,
}
REMOVALS: dict[str, Callable[[Derived], object]] = {
    "erased": lambda found: erase(found.store.memos, found.lamp),
    "removed with its cube": lambda found: found.store.memos.delete_cube("home", ME),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_derived_from_a_memory_is_gone_when_it_is(derived: Derived, change: str) -> None:
    before = derived.store.kv.longest(INFO, [HOME, TALK], LATER)
    chunk = derived.store.kv.chunk(INFO, "home", derived.lamp, 1)
    assert before is not None
    assert chunk is not None
    assert chunk.load() is not None
    derived.store.kv.prefetch([before])
    CHANGES[change](derived)
    assert (derived.rows(), derived.blobs()) == (2, 2)
    assert derived.of_the_lamp() == (0, 0, False)
    assert derived.store.kv.fill(before, working()) == 0  # found before, and not used after
    assert derived.store.kv.ready({1: chunk}) == {}
    assert derived.others() == (64, 64)


@pytest.mark.parametrize("removal", REMOVALS)
def test_whatever_is_removed_for_good_takes_every_conversation_with_it(derived: Derived, removal: str) -> None:
    found = derived.store.kv.longest(INFO, [BEN], OTHER)
    assert found is not None
    REMOVALS[removal](derived)
    assert (derived.rows(), derived.blobs()) == (1, 1)
    assert derived.of_the_lamp() == (0, 0, False)
    assert derived.store.kv.fill(found, working()) == 0  # somebody may have quoted it
    assert derived.others() == (64, 0)


def test_an_erasure_counts_what_it_took(derived: Derived) -> None:
    assert erase(derived.store.memos, derived.lamp).invalidated.kv == 4


def test_conversations_go_with_an_empty_cube_too(derived: Derived) -> None:
    derived.store.memos.delete_cube("work", ME)
    erase(derived.store.memos, derived.lamp)
    derived.keep(BEN, OTHER, 0)
    assert derived.store.memos.delete_cube("home", ME) == 0
    assert (derived.others(), derived.rows()) == ((0, 0), 0)


def test_what_is_not_written_yet_goes_as_well(derived: Derived) -> None:
    """The vault's writer is held, so that what is kept waits in RAM while the memory changes."""
    memos = derived.store.memos
    gate, began = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        gate.wait()

    bike = say(memos, "The bicycle is in the cellar.", cube="home")
    blocker = threading.Thread(target=lambda: memos._parts.vault._writer.alone(hold))
    blocker.start()
    began.wait()
    changer = threading.Thread(target=lambda: archive(memos, bike))
    changer.start()
    derived.keep(HOME, OTHER, 0, (bike, 1))
    derived.keep_chunk(bike)
    assert derived.store.filled(INFO, [HOME], OTHER) == 64
    gate.set()
    changer.join()
    blocker.join()
    assert derived.store.filled(INFO, [HOME], OTHER) == 0
    assert derived.store.kv.chunk(INFO, "home", bike, 1) is None
    derived.store.kv.flush()
    assert (derived.rows(), derived.blobs()) == (5, 5)


def test_what_was_derived_from_an_earlier_version_is_not_kept_any_more(derived: Derived) -> None:
    archive(derived.store.memos, derived.lamp)
    assert derived.keep(HOME, PINNED, 0, (derived.lamp, 1)) is None
    assert derived.keep(TALK, LATER, 0, (derived.lamp, 1)) is None
    assert derived.keep_chunk(derived.lamp) is None
    assert derived.keep(TALK, LATER, 0, ("m_NEVER", 1)) is None
    assert derived.of_the_lamp() == (0, 0, False)
    derived.derive(derived.lamp, 2)
    assert derived.of_the_lamp() == (64, 160, False)  # the chunk is of version 2


def test_a_cube_that_is_rolled_back_takes_what_was_derived_since(derived: Derived) -> None:
    memos, before = derived.store.memos, derived.clock.now().isoformat()
    derived.clock.pass_by(hours=1)
    memos.govern(Govern((derived.lamp,), tags=("red",)), ME)
    derived.derive(derived.lamp, 2)
    assert derived.filled(HOME, TALK) == 160
    memos.rollback("home", before, ME)
    assert derived.filled(HOME, TALK) == 0
    assert derived.store.kv.chunk(INFO, "home", derived.lamp, 2) is None


def test_a_change_opens_only_what_was_derived_from_it(derived: Derived) -> None:
    """A header that nobody can read would be met by whoever reads them all."""
    vault = derived.store.memos._parts.vault
    vault.write(lambda transaction: transaction.execute("UPDATE artifacts SET header = '?' WHERE cube = 'work'"), ME)
    assert archive(derived.store.memos, derived.lamp).invalidated.kv == 3
    assert derived.rows() == 2


def test_an_artifact_whose_sources_only_its_header_tells_goes_too(derived: Derived) -> None:
    """As a store of an earlier schema has them."""
    vault = derived.store.memos._parts.vault
    vault.write(lambda transaction: transaction.execute("UPDATE artifacts SET sources = NULL"), ME)
    assert archive(derived.store.memos, derived.lamp).invalidated.kv == 3
    assert (derived.rows(), derived.blobs(), derived.others()) == (2, 2, (64, 64))


ROUNDS = 6


@pytest.mark.parametrize("change", [archive, erase])
def test_however_a_change_meets_the_writing_nothing_stale_stays(
    derived: Derived, change: Callable[[MemOS, str], object]
) -> None:
    """The change comes before, while or after the row or the blob is written: nobody waits for either."""
    memos, large = derived.store.memos, tokens(3_000, seed=7)
    for number in range(ROUNDS):
        before = derived.rows()
        bike = say(memos, f"The bicycle number {number} is in the cellar.", cube="home")
        derived.keep(HOME, large[number:], 0, (bike, 1))
        derived.keep_chunk(bike)
        until(lambda wanted=before + number % 3: derived.rows() >= wanted, "a row is written")
        change(memos, bike)
        left = 5 if change is archive else 3
        assert derived.store.filled(INFO, [HOME], large[number:]) == 0
        assert derived.blobs() <= left
        derived.store.kv.flush()
        assert (derived.rows(), derived.blobs()) == (left, left)
    assert (derived.store.kv.remarks(), memos.verify(ME)) == ((), ())


# --- no trace ---------------------------------------------------------------------------------------------------------


def samples(layers: Layers) -> list[bytes]:
    """Pieces of every tensor, as they would stand in any file that holds it."""
    flat = [tensor.contiguous().flatten().numpy().tobytes() for layer in layers for tensor in layer]
    return [raw[at : at + 24] for raw in flat for at in range(0, len(raw) - 24, len(raw) // 7)]


def holding(folder: Path, wanted: Sequence[bytes]) -> list[str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path.name for path in files if any(piece in path.read_bytes() for piece in wanted)]


@pytest.mark.parametrize("how", ["none", "int8"])
def test_an_erasure_leaves_no_tensor_and_no_hash_in_any_file(settings: Settings, clock: HandClock, how: str) -> None:
    settings = replace(settings, kv_compression=how, backup_every_h=1.0)
    with kept(settings, clock) as store:
        lamp = say(store.memos, "The lamp in the hall is red.", cube="home")
        found = Derived(store, lamp, clock, settings)
        found.derive(lamp)
        store.kv.flush()
        clock.pass_by(hours=2)
        store.memos.sweep()
        store.memos.backup(settings.data / "copy.duckdb", ME)
        hashes = [
            base64.b64decode(json.loads(json.loads(header)["metadata"])["blocks"])
            for (header,) in store.memos._parts.vault.rows("SELECT header FROM artifacts")
            if header.startswith("{") and "blocks" in header
        ]
        coded = [base64.b64encode(raw)[:40] for raw in hashes]
        layers = [layers_for(PINNED), part(layers_for(LATER), 64, 160), layers_for(NOTE)]
        if how != "none":
            layers = [tuple((keys, values) for keys, values in restored_int8(item)) for item in layers]
        tensors = [piece for item in layers for piece in samples(item)]
        if store.memos._parts.vault.sealer.plain:
            assert holding(settings.data, tensors)
            assert holding(settings.data, coded)
        (settings.data / "copy.duckdb").unlink()  # a copy that a person made is out of reach, and named
        clock.pass_by(minutes=1)
        erase(store.memos, lamp)
        assert holding(settings.data, [*tensors, *coded]) == []
    assert holding(settings.data, [*tensors, *coded]) == []


def restored_int8(layers: Layers) -> Layers:
    """The integers that an int8 file holds."""
    packed = compressed(layers, "int8")
    return tuple(
        (packed.tensors[f"{number}.keys"], packed.tensors[f"{number}.values"]) for number in range(len(layers))
    )
