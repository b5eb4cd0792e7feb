"""KV caches that came with a file serve at once where they are right, and never where they are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.answering.local import LocalModel
from engine.answering.notes import note_of
from engine.cube_operations import Install, Pack
from engine.memos import MemOS
from engine.model.loading import Loaded
from engine.model.prompts import Note, ids_of_note
from engine.model_operations import Form, MemoryUse, Tier
from engine.settings import Settings
from engine.tiers.kv import checking
from engine.tiers.kv.building import pinned_block
from engine.tiers.kv.encoding import encode
from engine.tiers.kv.entries import Scope
from engine.tiers.kv.tensors import Layers, joined
from tests.conftest import HandClock, until
from tests.engine.answering.test_chat import FACTS, chat, kept, reply, told
from tests.engine.stores import ME, opened, settings_for

CUBE = "gift"
USE = MemoryUse(cubes=(CUBE,))
QUESTION = "what is the city of alice ?"
CHECKED = f"KV caches of cube {CUBE!r} came with a file and are being checked"
WRONG = f"a KV cache was dropped and is built again: {checking.WRONG}"


def local_of(memos: MemOS) -> LocalModel:
    local = memos._answering._local
    assert local is not None
    return local


def bundle(tmp_path: Path, model: Path, clock: HandClock, *, said: str = "paris", up_to: int | None = None) -> Path:
    """An unsigned bundle whose pinned block says paris, and whose cache is of a block that has `said` in its place.

    `up_to`: only its first tokens are; those behind it are right, given what is before them.
    """
    path = tmp_path / f"{said}-{up_to}.memcube"
    settings = replace(settings_for(tmp_path / f"origin-{said}-{up_to}"), model=str(model), model_dtype="float32")

    def poisoned(loaded: Loaded, ids: tuple[int, ...]) -> Layers:
        right, wrong = (ids_of_note(loaded, Note("x", 1, word)) for word in ("paris", said))
        swapped = {a: b for a, b in zip(right, wrong, strict=True) if a != b}
        other = [swapped.get(id, id) for id in ids]
        if up_to is None:
            return encode(loaded, other)
        first = encode(loaded, other[:up_to])
        return joined([first, encode(loaded, ids[up_to:], first)])

    with opened(settings, clock) as memos:
        for text in (*FACTS.values(), "the city of erin is london", "the pet of erin is dog"):
            told(memos, clock, text, cube=CUBE, pinned=True)
        memos.model(ME, load=True)
        local, (header,) = local_of(memos), [cube for cube in memos._parts.vault.cubes() if cube.name == CUBE]
        pinned = local.gathering.pinned(header, ME)

        def job(loaded: Loaded) -> None:
            ids = pinned_block(loaded, [note_of(memory) for memory in pinned])
            sources = [(memory.id, memory.version) for memory in pinned]
            local.store.keep_prefix(loaded.info, Scope.cube(CUBE), CUBE, ids, poisoned(loaded, ids), 0, sources)

        local.host.runner(str(model)).call(job)
        kept(memos)
        memos.pack(Pack(cube=CUBE, path=path, sign=False), ME)
    return path


@pytest.fixture
def elsewhere(settings: Settings, latest_wins: Path) -> Settings:
    return replace(settings, model=str(latest_wins), model_dtype="float32")


def test_a_cube_in_another_data_folder_reuses_its_cache_in_the_first_reply(
    elsewhere: Settings, latest_wins: Path, clock: HandClock, tmp_path: Path
) -> None:
    path = bundle(tmp_path, latest_wins, clock)
    with opened(elsewhere, clock) as memos:
        memos.install(Install(str(path)), ME)
        first = reply(memos, chat(QUESTION, memory=USE))
        assert (first.text.strip(), CHECKED in first.report.remarks) == ("paris", True)
        assert first.report.reused_tokens >= 32
        kept(memos)
        assert local_of(memos).store.totals().conversations == 0  # nothing is kept behind what was not checked
        until(lambda: CHECKED not in reply(memos, chat(QUESTION, memory=USE)).report.remarks, "the check")
        second = reply(memos, chat(QUESTION, memory=USE))
        assert second.report.reused_tokens >= first.report.reused_tokens
        assert WRONG not in (*first.report.remarks, *second.report.remarks)
        kept(memos)
        assert local_of(memos).store.totals().conversations > 0
    with opened(elsewhere, clock) as memos:  # that it was checked is kept
        again = reply(memos, chat("hello", memory=USE))
        assert (CHECKED in again.report.remarks, again.report.reused_tokens >= 32) == (False, True)


def test_a_cache_of_other_words_than_the_text_is_never_used(
    elsewhere: Settings, latest_wins: Path, clock: HandClock, tmp_path: Path
) -> None:
    path = bundle(tmp_path, latest_wins, clock, said="rome")
    with opened(elsewhere, clock) as memos:
        memos.install(Install(str(path)), ME)
        done = reply(memos, chat(QUESTION, memory=USE))
        assert (done.text.strip(), WRONG in done.report.remarks) == ("paris", True)
        assert {used.form for used in done.report.used} == {Form.TEXT}
        kept(memos)
        again = reply(memos, chat(QUESTION, memory=USE))  # its own is there now
        assert (again.text.strip(), again.report.reused_tokens >= 32) == ("paris", True)
        assert not {CHECKED, WRONG} & {*again.report.remarks}


def test_what_the_first_look_misses_is_dropped_when_all_of_it_is_checked(
    elsewhere: Settings, latest_wins: Path, clock: HandClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "SPOTS", 1)  # the last block alone, and that is right given what is before it
    path, asked = bundle(tmp_path, latest_wins, clock, said="rome", up_to=48), chat(QUESTION, memory=USE)
    with opened(elsewhere, clock) as memos:
        memos.install(Install(str(path)), ME)
        done = reply(memos, asked)
        assert CHECKED in done.report.remarks
        until(lambda: CHECKED not in reply(memos, asked).report.remarks, "the check")
        last = reply(memos, asked)
        assert last.text.strip() == "paris"
        kept(memos)
        assert all(row.usable for row in memos.tiers(CUBE, ME))


def test_a_chunk_that_came_with_a_file_is_measured_here_before_it_is_used(
    elsewhere: Settings, latest_wins: Path, clock: HandClock, tmp_path: Path
) -> None:
    asked, path = chat(QUESTION, memory=replace(USE, tiers=(Tier.KV,))), tmp_path / "chunks.memcube"
    with opened(replace(elsewhere, data=tmp_path / "origin", kv_bound=10.0), clock) as memos:
        for text in list(FACTS.values())[:2]:
            told(memos, clock, text, cube=CUBE)
        assert memos.build_tier(CUBE, ME).chunks == 2
        kept(memos)
        memos.pack(Pack(cube=CUBE, path=path, sign=False), ME)
    with opened(replace(elsewhere, kv_bound=10.0), clock) as memos:
        memos.install(Install(str(path)), ME)
        first = reply(memos, asked)
        assert {used.form for used in first.report.used} == {Form.TEXT}
        assert any("is unknown here" in remark for remark in first.report.remarks)
        until(lambda: Form.CHUNK in {used.form for used in reply(memos, asked).report.used}, "the chunks")
        kept(memos)
        assert any(row.divergence is not None for row in memos.tiers(CUBE, ME))
