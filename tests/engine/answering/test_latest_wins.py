"""Facts that only memory holds, asked through the engine: every form of memory lets the model answer, or is not taken.

Bindings are drawn anew by a seed, so nobody can answer but from memory. MEMOS_LATEST_WINS_CASES asks for more cases.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.cube_operations import Govern
from engine.memos import MemOS
from engine.model.generation import generate
from engine.model.loading import Loaded, load
from engine.model.prompts import Note, lay_out
from engine.model_operations import Chat, ChatTurn, Finished, Form, MemoryUse, Sampling, Tier
from engine.operations import Remember
from engine.settings import DEFAULT_KV_SHARE, Settings
from engine.tiers.kv.assembly import composed
from engine.tiers.kv.encoding import encode, prefill
from engine.tiers.kv.rotation import Part, place
from engine.tiers.kv.tensors import WorkingCache
from tests.conftest import START, HandClock
from tests.engine.stores import ME, opened, settings_for
from tests.models import facts
from tests.models.facts import Case

CASES = int(os.environ.get("MEMOS_LATEST_WINS_CASES", "8"))  # of each kind, through a whole store
DIRECT_CASES = 8 * CASES  # by the tier alone, which is quicker
GREEDY = Sampling(max_tokens=6, temperature=0)
TEXT, BOTH, KV = (Tier.TEXT,), (Tier.TEXT, Tier.KV), (Tier.KV,)
LOOSE = 10.0  # a bound on divergence that lets every chunk be used: what it costs is what is measured here


@pytest.fixture(scope="module")
def settings(latest_wins: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    torch.set_num_threads(1)
    plain = settings_for(tmp_path_factory.mktemp("latest-wins") / "data")
    return replace(plain, model=str(latest_wins), model_dtype="float32", kv_bound=LOOSE)


@pytest.fixture(scope="module")
def clock() -> HandClock:
    return HandClock(START)


@pytest.fixture(scope="module")
def memos(settings: Settings, clock: HandClock) -> Iterator[MemOS]:
    with opened(settings, clock) as store:
        yield store


@pytest.fixture(scope="module")
def loaded(settings: Settings) -> Loaded:
    return load(str(settings.model), settings, lambda _: None)


def tell(memos: MemOS, clock: HandClock, cube: str, case: Case, *, pinned: bool = False) -> str:
    """Remember the statements of a case, oldest first, in a cube of its own."""
    for text in case.statements:
        clock.pass_by(minutes=1)
        stored = memos.remember(Remember(content=text, cube=cube), ME).stored
        if pinned:
            memos.govern(Govern(ids=tuple(memory.id for memory in stored), pinned=True), ME)
    return cube


def asked(memos: MemOS, cube: str, case: Case, tiers: Sequence[Tier]) -> Finished:
    use = MemoryUse(cubes=(cube,), tiers=tuple(tiers), limit=12)
    *_, done = memos.chat(Chat((ChatTurn("user", case.question),), use, GREEDY), ME)
    assert isinstance(done, Finished)
    return done


def forms(done: Finished) -> set[Form]:
    return {used.form for used in done.report.used}


def share(what: str, right: Sequence[bool]) -> float:
    print(f"{what}: {sum(right) / len(right):.3f} of {len(right)}")
    return sum(right) / len(right)


def test_what_was_updated_is_answered_from_recalled_text(memos: MemOS, clock: HandClock):
    cases = facts.some_cases(31, CASES, 4, 2, "updated")
    cubes = [tell(memos, clock, f"text-{number}", case) for number, case in enumerate(cases)]
    done = [asked(memos, cube, case, TEXT) for cube, case in zip(cubes, cases, strict=True)]
    assert all(forms(reply) == {Form.TEXT} for reply in done)
    assert share("text", [reply.text.strip() == case.answer for reply, case in zip(done, cases, strict=True)]) >= 0.95


def test_a_stored_prefix_of_what_is_pinned_answers_as_its_text_does(memos: MemOS, clock: HandClock):
    cases = facts.some_cases(32, CASES, 4, 2, "updated")
    right = []
    for number, case in enumerate(cases):
        cube = tell(memos, clock, f"prefix-{number}", case, pinned=True)
        by_text = asked(memos, cube, case, TEXT)
        memos.build_tier(cube, ME)
        by_prefix = asked(memos, cube, case, BOTH)
        assert by_prefix.text == by_text.text
        assert Form.PREFIX in forms(by_prefix)
        assert by_prefix.report.reused_tokens > by_text.report.reused_tokens == 0
        right.append(by_prefix.text.strip() == case.answer)
    assert share("prefix", right) >= 0.95


def test_where_recalled_memories_update_each_other_the_exact_form_is_taken(memos: MemOS, clock: HandClock):
    right = []
    for number, case in enumerate(facts.some_cases(33, CASES, 4, 2, "updated")):
        cube = tell(memos, clock, f"entangled-{number}", case)
        assert memos.build_tier(cube, ME).chunks == len(case.statements)
        done = asked(memos, cube, case, KV)
        assert forms(done) == {Form.TEXT}
        assert any("exact form" in remark for remark in done.report.remarks)
        right.append(done.text.strip() == case.answer)
    assert share("updates, exact form taken", right) >= 0.95


def test_chunks_answer_where_memories_do_not_speak_of_the_same_thing(memos: MemOS, clock: HandClock):
    right = []
    for number, case in enumerate(facts.some_cases(34, 2 * CASES, 3)):
        cube = tell(memos, clock, f"chunks-{number}", case)
        memos.build_tier(cube, ME)
        done = asked(memos, cube, case, KV)
        if forms(done) == {Form.CHUNK}:
            assert 0 < done.report.recomputed_tokens < done.report.prompt_tokens
            right.append(done.text.strip() == case.answer)
    assert len(right) >= CASES / 2
    assert share("chunks, through the engine", right) >= 0.95


def test_without_memory_the_answer_is_unknown(memos: MemOS, clock: HandClock):
    for number, case in enumerate(facts.some_cases(35, CASES, 4)):
        tell(memos, clock, f"without-{number}", case)
        *_, done = memos.chat(Chat((ChatTurn("user", case.question),), None, GREEDY), ME)
        assert isinstance(done, Finished)
        assert done.text.strip() == facts.UNKNOWN
        assert done.report.used == ()


# --- the tier alone: updates are put into chunks here, which the engine does not do -----------------------------------


def read(loaded: Loaded, case: Case, how: str) -> str:
    """The answer to a case whose statements are recalled: by `text`, as chunks left `unshifted`, `shifted`, or with a
    share of their tokens `recomputed` as well."""
    notes = [Note(f"n{number:02}", 1, text) for number, text in enumerate(case.statements)]
    prompt = lay_out(loaded, [ChatTurn("user", case.question)], [], notes, GREEDY.max_tokens)
    cache = WorkingCache(loaded.model.config, prompt.tokens + GREEDY.max_tokens)
    spans = [(start, Part(encode(loaded, piece.ids))) for start, _, piece in prompt.spans() if piece.kind == "note"]
    if how != "text":
        prefill(loaded, prompt.ids[: spans[0][0]], cache)
        if how == "unshifted":
            place(cache, [part for _, part in spans], None)
        else:
            recomputed = DEFAULT_KV_SHARE if how == "recomputed" else 0.0
            for _ in composed(loaded, cache, prompt.ids, spans, recomputed):
                pass
    return "".join(step.text for step in generate(loaded, prompt.ids, cache, GREEDY)).strip()


@pytest.mark.parametrize(
    ("how", "least", "most"), [("text", 0.97, 1), ("shifted", 0.87, 1), ("recomputed", 0.95, 1), ("unshifted", 0, 0.7)]
)
def test_updates_in_chunks_need_their_positions_and_gain_by_recomputing(
    loaded: Loaded, how: str, least: float, most: float
):
    cases = facts.some_cases(36, DIRECT_CASES, 4, 2, "updated")
    assert least <= share(f"tier alone, {how}", [read(loaded, case, how) == case.answer for case in cases]) <= most
