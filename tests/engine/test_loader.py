"""install: a bundle becomes a cube whole or not at all; an installed cube follows its origin without losing ours."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest

from cubes import Action, Lineage, MemCube, Provenance, Relation, Sensitivity
from cubes.bundle import open_bundle
from cubes.canonical import digest
from cubes.manifest import ArtifactHeader, ArtifactKind
from cubes.packing import PackedArtifact, write_bundle
from cubes.records import PackedMemory
from engine import keys
from engine.cube_operations import Govern, Install, Installed, Pack, SetCube
from engine.errors import Cancelled, Conflict, Corrupt, Invalid, NotAllowed, NotFound
from engine.loader.staged import Staged, stage_all
from engine.memos import MemOS
from engine.operations import Caller, Principal, Progress, silent
from engine.settings import Settings
from engine.vault import queries
from tests.conftest import START, HandClock, until
from tests.engine.stores import ME, archive, ask, contents, erase, opened, say, settings_for, state

LONG = " ".join(f"Sentence number {n} of the long report about tides." for n in range(400))
WRITER = Caller(Principal("laptop", grants=(("home", (Action.WRITE,)),)))
STRANGER = Caller(Principal("guest"))


def pack(memos: MemOS, path: Path, cube: str = "home", **more: object) -> Path:
    memos.pack(replace(Pack(cube, path, replace=True), **more), ME)  # type: ignore[arg-type]
    return path


def install(memos: MemOS, path: Path, caller: Caller = ME, progress: Progress = silent, **more: object) -> Installed:
    return memos.install(replace(Install(str(path)), **more), caller, progress)  # type: ignore[arg-type]


def held(memos: MemOS, cube: str) -> dict[str, str]:
    return {memory.id: memory.content for memory in memos.memories(cube, ME, limit=1_000).memories}


def rows_of(memos: MemOS) -> dict[str, int]:
    tables = ("memories", "versions", "embeddings", "usage", "lineage", "artifacts", "cubes", "audit")
    return {table: memos._parts.vault.rows(f"SELECT count(*) FROM {table}")[0][0] for table in tables}


@pytest.fixture
def origin(tmp_path: Path, clock: HandClock) -> Iterator[MemOS]:
    with opened(settings_for(tmp_path / "origin"), clock) as memos:
        yield memos


@pytest.fixture
def bundle(origin: MemOS, tmp_path: Path) -> Path:
    say(origin, "The harbour opens at eight.", cube="home", source="https://example.org")
    say(origin, LONG, cube="home")
    return pack(origin, tmp_path / "home.memcube")


# --- installing -------------------------------------------------------------------------------------------------------


def test_what_was_installed_is_recalled_and_counted(memos: MemOS, bundle: Path) -> None:
    installed = install(memos, bundle)
    assert installed.memories == memos.cube("home", ME).memories == len(held(memos, "home"))
    assert "The harbour opens at eight." in contents(ask(memos, "when does the harbour open"))
    assert memos.verify(ME) == ()
    row = memos.audit(ME, cube="home")[-1]
    assert (row.action, row.detail["memories"], row.detail["signed_by"]) == ("install", installed.memories, None)


def test_a_cube_that_is_there_is_not_written_over(memos: MemOS, bundle: Path) -> None:
    say(memos, "Mine.", cube="home")
    before = rows_of(memos)
    with pytest.raises(Conflict, match="--as"):
        install(memos, bundle)
    assert rows_of(memos) == before
    assert install(memos, bundle, name="other").cube == "other"


def test_ids_that_are_taken_get_new_ones_and_lineage_follows(memos: MemOS, bundle: Path) -> None:
    first, second = install(memos, bundle), install(memos, bundle, name="other")
    assert (first.renamed_ids, second.renamed_ids) == (0, second.memories)
    assert sorted(held(memos, "home").values()) == sorted(held(memos, "other").values())
    assert set(held(memos, "home")).isdisjoint(held(memos, "other"))
    whole = next(id for id, content in held(memos, "other").items() if content == LONG)
    pieces = {id for relation, id in memos.memory(whole, ME).derived if relation == "part_of"}
    assert pieces
    assert pieces < set(held(memos, "other"))
    memos.delete_cube("other", ME)
    again = install(memos, bundle, name="other")
    assert whole in held(memos, "other")  # the same ids each time
    assert again.renamed_ids == again.memories
    assert memos.verify(ME) == ()


def test_an_erased_id_never_comes_back(memos: MemOS, bundle: Path) -> None:
    install(memos, bundle)
    gone = next(id for id, content in held(memos, "home").items() if content.startswith("The harbour"))
    erase(memos, gone)
    memos.delete_cube("home", ME)
    installed = install(memos, bundle)
    assert installed.renamed_ids == 1
    assert gone not in held(memos, "home")
    assert "The harbour opens at eight." in held(memos, "home").values()


def test_a_dry_run_reads_all_and_changes_nothing(memos: MemOS, bundle: Path) -> None:
    install(memos, bundle)
    before = rows_of(memos)
    told = install(memos, bundle, name="other", dry_run=True)
    assert (told.memories, told.renamed_ids, rows_of(memos)) == (rows_of(memos)["memories"], told.memories, before)
    damaged = bundle.read_bytes().replace(b"harbour", b"barbour", 1)
    bundle.write_bytes(damaged)
    with pytest.raises(Corrupt):
        install(memos, bundle, name="other", dry_run=True)


def test_a_damaged_bundle_leaves_the_store_as_it_was(memos: MemOS, bundle: Path) -> None:
    before = rows_of(memos)
    raw = bundle.read_bytes()
    place = raw.rindex(b"Sentence number 399")
    bundle.write_bytes(raw[:place] + b"s" + raw[place + 1 :])
    with pytest.raises(Corrupt, match=r"home\.memcube"):
        install(memos, bundle)
    assert rows_of(memos) == before


def test_the_trust_policy_decides_what_is_let_in(
    memos: MemOS, settings: Settings, origin: MemOS, bundle: Path, tmp_path: Path
) -> None:
    keys.set_policy(settings, "signed")
    with pytest.raises(NotAllowed):
        install(memos, bundle)
    own = keys.create_keys(settings_for(tmp_path / "origin"))
    assert own.signing is not None
    pack(origin, bundle)
    installed = install(memos, bundle)
    assert (installed.signed_by, installed.trusted) == (own.signing.fingerprint, False)
    keys.set_policy(settings, "known")
    with pytest.raises(NotAllowed):
        install(memos, bundle, name="other")
    keys.trust(settings, own.signing, "Anna")
    assert install(memos, bundle, name="other").trusted


def test_who_may_not_make_the_cube_may_not_install_it(memos: MemOS, bundle: Path) -> None:
    with pytest.raises(NotFound):
        install(memos, bundle, STRANGER)
    with pytest.raises(NotAllowed):
        install(memos, bundle, WRITER, keep_policy=True)
    install(memos, bundle, WRITER)
    assert memos.cube("home", ME).cube.owner == "laptop"


@pytest.mark.parametrize("name", ["a/b", "*", "x" * 65, " blank"])
def test_a_name_that_no_cube_can_have_is_refused(memos: MemOS, bundle: Path, name: str) -> None:
    with pytest.raises(Invalid):
        install(memos, bundle, name=name)
    assert memos.cubes(ME) == ()


@pytest.mark.parametrize("name", ["/installing", "*", " blank"])
def test_a_name_that_a_bundle_brings_is_checked_as_well(memos: MemOS, bundle: Path, name: str) -> None:
    hostile = bundle.with_name("hostile.memcube")
    with open_bundle(bundle) as source:
        write_bundle(hostile, replace(source.manifest.cube, name=name), source.memories())
    with pytest.raises(Invalid):
        install(memos, hostile)
    assert memos.cubes(ME) == ()


def test_stopping_it_anywhere_leaves_nothing(memos: MemOS, bundle: Path) -> None:
    say(memos, "Mine.", cube="mine")
    before = rows_of(memos)

    def stop_at(wanted: int) -> Callable[[float, float | None, str], None]:
        calls = 0

        def progress(done: float, total: float | None, message: str) -> None:
            nonlocal calls
            calls += 1
            if calls == wanted:
                raise Cancelled("stopped; nothing was changed")

        return progress

    for wanted in (1, 2):
        with pytest.raises(Cancelled):
            install(memos, bundle, progress=stop_at(wanted))
        assert rows_of(memos) == before
    assert memos.verify(ME) == ()
    assert install(memos, bundle).renamed_ids == 0


def test_nothing_of_what_is_staged_is_seen_anywhere(memos: MemOS, bundle: Path, clock: HandClock) -> None:
    mine = say(memos, "The harbour closes at nine.", cube="mine", expires_in_days=1)
    seen: list[object] = []

    def look(done: float, total: float | None, message: str) -> None:
        clock.pass_by(days=400)
        memos.sweep()
        staged = memos._parts.vault.rows("SELECT id FROM memories WHERE starts_with(cube, '/')")
        assert staged
        seen.append([view.cube.name for view in memos.cubes(ME)])
        seen.append(sum(count for _, count in memos.status(ME).counts))
        seen.append(contents(ask(memos, "tides harbour sentence", include_archived=True)))
        seen.append(memos.complete_ids("m_", ME))
        seen.append(memos.verify(ME))
        seen.append(memos._parts.embeddings.missing())
        with memos._parts.vault.reading() as connection:
            assert [record.memory.id for record in queries.lacking_vectors(connection, "any", 10)] == [mine]
        for (id,) in staged[:3]:
            with pytest.raises(NotFound):
                memos.memory(id, ME)
            with pytest.raises(NotFound):
                memos.history(id, ME)
            assert erase(memos, id).not_found == (id,)
        if len(seen) >= 6:
            raise Cancelled("looked at")

    with pytest.raises(Cancelled):
        install(memos, bundle, progress=look)
    assert seen == [["mine"], 1, ["The harbour closes at nine."], (mine,), (), 0]


def test_what_a_killed_process_staged_is_removed_at_the_next_start(settings: Settings, bundle: Path) -> None:
    with opened(settings) as memos:
        before = rows_of(memos)
        parts = memos._parts
        with open_bundle(bundle) as source:
            stage_all(Staged(parts, source, "home", "/left", ""), silent)
        assert rows_of(memos)["memories"] > before["memories"]
        partial = settings.blobs_folder / ".left.partial"
        settings.blobs_folder.mkdir(exist_ok=True)
        partial.write_bytes(b"half")
        (settings.blobs_folder / ("0" * 64)).write_bytes(b"of no row")
    with opened(settings) as memos:
        assert rows_of(memos) == before
        assert list(settings.blobs_folder.iterdir()) == []


def test_the_index_is_made_in_the_background(memos: MemOS, bundle: Path) -> None:
    install(memos, bundle)
    until(lambda: ("home", "ready") in memos.status(ME).index, "the index of the installed cube")


def test_lineage_out_of_the_bundle_is_kept_as_it_was_said(memos: MemOS, tmp_path: Path, bundle: Path) -> None:
    with open_bundle(bundle) as source:
        edge = Lineage(Relation.SUPERSEDES, "m_ELSEWHERE", 3)
        changed = [replace(memory, lineage=(*memory.lineage, edge)) for memory in source.memories()]
        write_bundle(tmp_path / "claims.memcube", source.manifest.cube, changed)
    install(memos, tmp_path / "claims.memcube")
    assert rows_of(memos)["lineage"] >= len(changed)
    assert memos._parts.vault.rows("SELECT DISTINCT imported FROM lineage") == [(True,)]


def test_sent_again_it_is_answered_and_not_done_again(memos: MemOS, bundle: Path) -> None:
    caller = replace(ME, operation="op-1")
    first = install(memos, bundle, caller)
    assert install(memos, bundle, caller) == first
    assert [row.action for row in memos.audit(ME, cube="home")].count("install") == 1


# --- upgrading --------------------------------------------------------------------------------------------------------


def test_new_versions_come_and_what_is_gone_there_is_archived(
    memos: MemOS, origin: MemOS, bundle: Path, tmp_path: Path
) -> None:
    install(memos, bundle)
    old = next(id for id, content in held(origin, "home").items() if content.startswith("The harbour"))
    gone = say(origin, "Anna keeps bees.", cube="home")
    install(memos, pack(origin, bundle), upgrade=True)
    assert state(memos, gone) == "generated"
    erase(origin, gone)
    origin.govern(Govern((old,), tags=("sea",), reason="found"), ME)
    new = say(origin, "The harbour opens at nine.", cube="home", supersedes=(old,))
    origin.set_cube(SetCube("home", description="of the sea", licence="CC0-1.0"), ME)
    pack(origin, bundle)
    before = rows_of(memos)
    dry = install(memos, bundle, upgrade=True, dry_run=True)
    assert rows_of(memos) == before
    done = install(memos, bundle, upgrade=True)
    assert dry.diff == done.diff
    assert done.diff is not None
    assert (done.diff.added, done.diff.removed) == ((new,), (gone,))
    assert [(item.id, [name for name, _, _ in item.fields]) for item in done.diff.changed] == [(old, ["state", "tags"])]
    assert [name for name, _, _ in done.diff.header] == ["description", "licence"]
    assert (state(memos, old), state(memos, gone)) == ("archived", "archived")
    assert memos.memory(new, ME).memory.lineage[0].source == old
    assert len(memos.history(old, ME)) == 3
    assert memos.cube("home", ME).cube.description == "of the sea"
    assert memos.verify(ME) == ()
    assert contents(ask(memos, "when does the harbour open")) == ["The harbour opens at nine."]
    nothing = install(memos, bundle, upgrade=True)
    assert nothing.revision == done.revision


def test_what_was_changed_here_stays_and_is_named(memos: MemOS, origin: MemOS, bundle: Path) -> None:
    both = next(id for id, content in held(origin, "home").items() if content.startswith("The harbour"))
    mine = say(origin, "Anna keeps bees.", cube="home")
    theirs_gone = say(origin, "The lamp is red.", cube="home")
    frozen = say(origin, "The roof is flat.", cube="home")
    install(memos, pack(origin, bundle))
    local = say(memos, "Only here.", cube="home")
    memos.govern(Govern((both,), tags=("here",)), ME)
    memos.govern(Govern((mine, theirs_gone), priority=3), ME)
    memos.govern(Govern((frozen,), frozen=True), ME)
    origin.govern(Govern((both,), tags=("there",)), ME)
    erase(origin, theirs_gone)
    archive(origin, frozen)
    done = install(memos, pack(origin, bundle), upgrade=True)
    assert set(done.kept_local) == {both, theirs_gone, frozen}
    assert memos.memory(both, ME).memory.descriptive.tags == ("here",)
    assert [state(memos, id) for id in (mine, theirs_gone, frozen, local)] == ["generated"] * 4
    assert done.diff is not None
    assert done.diff.removed == ()


def test_what_was_only_recalled_is_as_it_came(memos: MemOS, origin: MemOS, bundle: Path) -> None:
    install(memos, bundle)
    id = ask(memos, "when does the harbour open").memories[0].memory.id
    memos.sweep()
    assert state(memos, id) == "activated"
    origin.govern(Govern((id,), tags=("sea",)), ME)
    done = install(memos, pack(origin, bundle), upgrade=True)
    assert (done.kept_local, memos.memory(id, ME).memory.descriptive.tags) == ((), ("sea",))
    assert memos.memory(id, ME).memory.behavioural.access_count == 1


def test_what_was_erased_here_does_not_come_back(memos: MemOS, origin: MemOS, bundle: Path) -> None:
    install(memos, bundle)
    gone = next(id for id, content in held(memos, "home").items() if content.startswith("The harbour"))
    erase(memos, gone)
    say(origin, "Anna keeps bees.", cube="home")
    done = install(memos, pack(origin, bundle), upgrade=True)
    assert done.diff is not None
    assert len(done.diff.added) == 1
    assert "The harbour opens at eight." not in held(memos, "home").values()


def test_a_redacted_bundle_archives_nothing(memos: MemOS, origin: MemOS, bundle: Path) -> None:
    secret = say(origin, "The safe opens at 1234.", cube="home", sensitivity=Sensitivity.SECRET)
    install(memos, pack(origin, bundle))
    done = install(memos, pack(origin, bundle, redact=Sensitivity.SECRET), upgrade=True)
    assert (done.diff is not None and done.diff.removed, state(memos, secret)) == ((), "generated")


def test_a_bundle_without_history_upgrades_what_nobody_changed(memos: MemOS, origin: MemOS, bundle: Path) -> None:
    id = next(id for id, content in held(origin, "home").items() if content.startswith("The harbour"))
    install(memos, bundle)
    for tag in ("a", "b", "c"):
        origin.govern(Govern((id,), tags=(tag,)), ME)
    install(memos, pack(origin, bundle, history=False), upgrade=True)
    assert memos.memory(id, ME).memory.descriptive.tags == ("c",)
    assert [version.version for version in memos.history(id, ME)] == [4]
    assert memos.verify(ME) == ()


def test_a_cube_with_new_ids_is_upgraded_as_well(memos: MemOS, origin: MemOS, bundle: Path) -> None:
    install(memos, bundle)
    install(memos, bundle, name="other")
    old = next(id for id, content in held(origin, "home").items() if content.startswith("The harbour"))
    say(origin, "The harbour opens at nine.", cube="home", supersedes=(old,))
    done = install(memos, pack(origin, bundle), name="other", upgrade=True)
    assert done.diff is not None
    assert (len(done.diff.added), len(done.diff.changed), done.kept_local) == (1, 1, ())
    here = next(id for id, content in held(memos, "other").items() if content.startswith("The harbour opens at nine"))
    ((edge),) = memos.memory(here, ME).memory.lineage
    assert edge.source in held(memos, "other")
    assert state(memos, edge.source) == "archived"
    assert state(memos, old) == "generated"


def test_a_cube_of_another_origin_is_not_upgraded(memos: MemOS, bundle: Path) -> None:
    with pytest.raises(NotFound):
        install(memos, bundle, upgrade=True)
    say(memos, "Mine.", cube="home")
    with pytest.raises(Conflict, match="--as"):
        install(memos, bundle, upgrade=True)
    with pytest.raises(NotAllowed):
        install(memos, bundle, WRITER, upgrade=True)


def test_a_change_that_comes_in_between_refuses_the_upgrade(memos: MemOS, origin: MemOS, bundle: Path) -> None:
    install(memos, bundle)
    id = next(id for id, content in held(origin, "home").items() if content.startswith("The harbour"))
    origin.govern(Govern((id,), tags=("there",)), ME)
    say(origin, "Anna keeps bees.", cube="home")
    pack(origin, bundle)

    def meddle(done: float, total: float | None, message: str) -> None:
        if message == "installing":
            memos.govern(Govern((id,), tags=("here",)), ME)

    with pytest.raises(Conflict):
        install(memos, bundle, progress=meddle, upgrade=True)
    assert memos.memory(id, ME).memory.descriptive.tags == ("here",)
    assert "Anna keeps bees." not in held(memos, "home").values()


def test_what_an_upgrade_archived_is_live_again_where_the_bundle_holds_it_again(
    memos: MemOS, origin: MemOS, bundle: Path, tmp_path: Path
) -> None:
    bees = say(origin, "Anna keeps bees.", cube="home")
    full = pack(origin, tmp_path / "full.memcube")
    install(memos, bundle)
    for turn in range(2):
        install(memos, full, upgrade=True)
        assert state(memos, bees) == "generated"
        assert contents(ask(memos, "who keeps bees"))[:1] == ["Anna keeps bees."]
        before = rows_of(memos)
        install(memos, full, upgrade=True)
        assert rows_of(memos) == before
        done = install(memos, bundle, upgrade=True)
        assert done.diff is not None
        assert done.diff.removed == (bees,), turn
        assert state(memos, bees) == "archived"
    for tag in ("honey", "wax", "comb"):
        origin.govern(Govern((bees,), tags=(tag,)), ME)
        done = install(memos, pack(origin, full), upgrade=True)
        assert (done.kept_local, memos.memory(bees, ME).memory.descriptive.tags) == ((), (tag,))
        assert state(memos, bees) == "generated"
    changes = [version.change for version in memos.history(bees, ME)]
    assert changes.count("upgrade") >= 4
    assert memos.verify(ME) == ()


def test_what_was_archived_by_an_upgrade_and_changed_here_since_stays(
    memos: MemOS, origin: MemOS, bundle: Path, tmp_path: Path
) -> None:
    bees = say(origin, "Anna keeps bees.", cube="home")
    full = pack(origin, tmp_path / "full.memcube")
    install(memos, full)
    install(memos, bundle, upgrade=True)
    memos.govern(Govern((bees,), tags=("here",)), ME)
    install(memos, full, upgrade=True)
    assert (state(memos, bees), memos.memory(bees, ME).memory.descriptive.tags) == ("archived", ("here",))


@pytest.mark.parametrize("later", ["memory", "header"])
def test_a_bundle_that_is_older_than_what_was_taken_over_is_refused(
    memos: MemOS, origin: MemOS, bundle: Path, tmp_path: Path, later: str
) -> None:
    install(memos, bundle)
    old = next(id for id, content in held(origin, "home").items() if content.startswith("The harbour"))
    if later == "memory":
        new = say(origin, "The harbour opens at nine.", cube="home", supersedes=(old,))
    else:
        new = say(origin, "Anna keeps bees.", cube="home")
        origin.set_cube(SetCube("home", description="of the sea"), ME)
    newer = pack(origin, tmp_path / "newer.memcube")
    install(memos, newer, upgrade=True)
    before = rows_of(memos)
    for dry in (True, False):
        with pytest.raises(Conflict, match="older"):
            install(memos, bundle, upgrade=True, dry_run=dry)
    assert rows_of(memos) == before
    assert state(memos, new) == "generated"
    install(memos, newer, upgrade=True)
    assert state(memos, new) == "generated"


def test_an_upgrade_that_changes_nothing_adds_nothing(memos: MemOS, origin: MemOS, bundle: Path) -> None:
    install(memos, bundle)
    origin.set_cube(SetCube("home", description="of the sea"), ME)
    say(origin, "Anna keeps bees.", cube="home")
    install(memos, pack(origin, bundle), upgrade=True)
    before, headers = rows_of(memos), memos.cube_history("home", ME)
    install(memos, bundle, upgrade=True)
    assert (rows_of(memos), memos.cube_history("home", ME)) == (before, headers)


# --- artifacts --------------------------------------------------------------------------------------------------------


def tensors(fill: int) -> bytes:
    header = json.dumps({"k": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}}).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + bytes([fill]) * 64


def with_artifacts(source: Path, target: Path, *ids: str) -> Path:
    """The same bundle with one KV cache for each of these memories."""
    with open_bundle(source) as found:
        manifest, memories = found.manifest, list(found.memories())
    artifacts = []
    for number, id in enumerate(ids):
        raw = tensors(number + 1)
        header = ArtifactHeader(
            f"a_{number}", ArtifactKind.KV, "model-1", digest(raw), len(raw), START.astimezone(UTC), ((id, 1),)
        )
        artifacts.append(PackedArtifact(header, lambda raw=raw: BytesIO(raw)))
    write_bundle(target, manifest.cube, memories, artifacts=artifacts)
    return target


@pytest.fixture
def derived(origin: MemOS, bundle: Path, tmp_path: Path) -> tuple[Path, str, str]:
    one = next(id for id, content in held(origin, "home").items() if content.startswith("The harbour"))
    other = say(origin, "Anna keeps bees.", cube="home")
    pack(origin, bundle)
    return with_artifacts(bundle, tmp_path / "derived.memcube", one, other), one, other


def blobs(settings: Settings) -> list[str]:
    return sorted(path.name for path in settings.blobs_folder.iterdir())


def test_artifacts_are_kept_listed_and_packed_again(
    memos: MemOS, settings: Settings, derived: tuple[Path, str, str], tmp_path: Path
) -> None:
    path, one, _ = derived
    installed = install(memos, path)
    assert installed.artifacts == (("a_0", "waiting for its model"), ("a_1", "waiting for its model"))
    first = memos.artifacts("home", ME)[0]
    assert (first.kind, first.fingerprint, first.sources) == ("kv", "model-1", ((one, 1),))
    assert len(blobs(settings)) == 2
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in settings.blobs_folder.iterdir())
    assert pack(memos, tmp_path / "again.memcube").read_bytes() == path.read_bytes()


def test_what_was_derived_goes_with_its_source(
    memos: MemOS, settings: Settings, derived: tuple[Path, str, str]
) -> None:
    path, one, other = derived
    install(memos, path)
    archived = archive(memos, one)
    assert (archived.invalidated.kv, len(blobs(settings))) == (1, 1)
    memos.govern(Govern((other,), tags=("x",)), ME)
    assert (memos.artifacts("home", ME), blobs(settings)) == ((), [])


def test_a_blob_stays_as_long_as_any_cube_needs_it(
    memos: MemOS, settings: Settings, derived: tuple[Path, str, str]
) -> None:
    path, one, _ = derived
    install(memos, path)
    assert install(memos, path, name="other").renamed_ids
    assert {row.sources for row in memos.artifacts("other", ME)}.isdisjoint(
        row.sources for row in memos.artifacts("home", ME)
    )
    erased = erase(memos, one)
    assert (erased.invalidated.kv, len(blobs(settings)), len(memos.artifacts("other", ME))) == (1, 2, 2)
    memos.delete_cube("other", ME)
    assert len(blobs(settings)) == 1
    memos.delete_cube("home", ME)
    assert blobs(settings) == []


def test_a_blob_that_is_not_its_digest_is_refused(
    memos: MemOS, settings: Settings, derived: tuple[Path, str, str]
) -> None:
    path, _, _ = derived
    before = rows_of(memos)
    path.write_bytes(path.read_bytes().replace(bytes([2]) * 64, bytes([3]) * 64))
    with pytest.raises(Corrupt):
        install(memos, path)
    assert rows_of(memos) == before
    assert blobs(settings) == []


def test_an_artifact_of_what_one_may_not_see_is_not_there(
    memos: MemOS, derived: tuple[Path, str, str], tmp_path: Path
) -> None:
    path, one, other = derived
    install(memos, path)
    reader = Caller(Principal("laptop", grants=(("home", (Action.SHARE,)),)))
    assert len(memos.artifacts("home", reader)) == 2
    with pytest.raises(NotFound):
        memos.artifacts("home", STRANGER)
    memos.govern(Govern((other,), sensitivity=Sensitivity.SECRET), ME)  # a change: what was derived from it goes
    assert [row.sources for row in memos.artifacts("home", reader)] == [((one, 1),)]


# --- what a bundle may claim ------------------------------------------------------------------------------------------


def test_a_bundle_by_another_program_comes_in_and_goes_out_the_same(memos: MemOS, tmp_path: Path) -> None:
    at = datetime(2020, 5, 17, tzinfo=UTC)
    header = MemCube("home", "someone", at, at, provenance=Provenance("elsewhere", "home", "someone"))
    with opened(settings_for(tmp_path / "maker")) as maker:
        say(maker, "The harbour opens at eight.", cube="home")
        pack(maker, tmp_path / "made.memcube")
    with open_bundle(tmp_path / "made.memcube") as source:
        (memory,) = source.memories()
    odd: list[PackedMemory] = []
    for number, id in enumerate(("zz", "~!$", "A" * 64)):
        current = replace(memory.current, descriptive=replace(memory.current.descriptive, id=id, position=number))
        odd.append(replace(memory, current=current))
    write_bundle(tmp_path / "odd.memcube", header, odd)
    install(memos, tmp_path / "odd.memcube")
    assert pack(memos, tmp_path / "again.memcube").read_bytes() == (tmp_path / "odd.memcube").read_bytes()
