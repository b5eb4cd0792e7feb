"""Conversations with the local model: memory reaches it, what can be reused is, and nothing stale ever is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cubes import Action
from engine.cube_operations import Govern
from engine.errors import Invalid, MemosError, NotAllowed, NotFound, Unavailable
from engine.memos import MemOS
from engine.model_operations import Chat, ChatTurn, Finished, Form, MemoryUse, Recalling, Said, Sampling, Tier
from engine.operations import Caller, Forget, Mode, Principal, Remember
from engine.settings import Settings
from tests.conftest import HandClock, until
from tests.engine.stores import ME, opened

GREEDY = Sampling(max_tokens=6, temperature=0)
FACTS = {
    "alice": "the city of alice is paris",
    "bob": "the pet of bob is cat",
    "carol": "the food of carol is sushi",
    "dave": "the code of dave is 4711",
}


@pytest.fixture
def with_model(settings: Settings, latest_wins: Path) -> Settings:
    return replace(settings, model=str(latest_wins), model_dtype="float32")


@pytest.fixture
def talking(with_model: Settings, clock: HandClock) -> Iterator[MemOS]:
    with opened(with_model, clock) as store:
        yield store


def told(memos: MemOS, clock: HandClock, text: str, *, cube: str = "default", pinned: bool = False) -> str:
    clock.pass_by(minutes=1)
    id = memos.remember(Remember(content=text, cube=cube), ME).stored[0].id
    if pinned:
        memos.govern(Govern(ids=(id,), pinned=True), ME)
    return id


def chat(*texts: str, memory: MemoryUse | None = MemoryUse(), sampling: Sampling = GREEDY) -> Chat:  # noqa: B008 - frozen
    """A conversation: what the user and the assistant said in turns, the user last."""
    roles = ("user", "assistant")
    return Chat(tuple(ChatTurn(roles[n % 2], text) for n, text in enumerate(texts)), memory, sampling)


def reply(memos: MemOS, request: Chat, caller: Caller = ME) -> Finished:
    events = list(memos.chat(request, caller))
    assert isinstance(events[0], Recalling)
    last = events[-1]
    assert isinstance(last, Finished)
    assert "".join(event.text for event in events if isinstance(event, Said)) == last.text
    return last


def kept(memos: MemOS) -> None:
    """Wait until what replies left is stored."""
    local = memos._answering._local
    assert local is not None
    local.store.flush()


def test_a_reply_comes_from_memory_and_says_from_which(talking: MemOS, clock: HandClock):
    ids = [told(talking, clock, text) for text in FACTS.values()]
    done = reply(talking, chat("what is the city of alice ?"))
    assert done.text.strip() == "paris"
    assert ids[0] in [used.id for used in done.report.used]
    assert done.report.prompt_tokens > 0
    assert done.report.ttft_ms > 0
    assert done.reason == "stop"


def test_without_memory_nothing_is_known(talking: MemOS, clock: HandClock):
    told(talking, clock, FACTS["alice"])
    done = reply(talking, chat("what is the city of alice ?", memory=None))
    assert done.text.strip() == "unknown"
    assert done.report.used == ()


def test_pinned_memories_are_read_once_and_reused_from_then_on(talking: MemOS, clock: HandClock):
    for text in FACTS.values():
        told(talking, clock, text, pinned=True)
    first = reply(talking, chat("what is the city of alice ?"))
    kept(talking)
    second = reply(talking, chat("what is the code of dave ?"))
    assert (first.text.strip(), second.text.replace(" ", "")) == ("paris", "4711")
    assert {used.form for used in first.report.used} == {Form.TEXT}
    assert Form.PREFIX in {used.form for used in second.report.used}
    assert second.report.reused_tokens >= 32


def test_text_alone_reuses_nothing(talking: MemOS, clock: HandClock):
    for text in FACTS.values():
        told(talking, clock, text, pinned=True)
    only_text = MemoryUse(tiers=(Tier.TEXT,))
    for _ in range(2):
        done = reply(talking, chat("what is the city of alice ?", memory=only_text))
        kept(talking)
        assert done.report.reused_tokens == 0
        assert {used.form for used in done.report.used} == {Form.TEXT}


def test_each_turn_of_a_long_conversation_reads_what_is_new(talking: MemOS, clock: HandClock):
    told(talking, clock, FACTS["alice"], pinned=True)
    said: list[str] = []
    fresh = []
    for number in range(25):
        said.append(f"what is the city of alice ? hello {number % 10}")
        done = reply(talking, chat(*said))
        kept(talking)
        said.append(done.text or "unknown")
        fresh.append(done.report.prompt_tokens - done.report.reused_tokens)
    assert done.report.prompt_tokens > 400
    assert max(fresh[1:]) <= 80  # a question, a reply, an unfinished block: no more at the end
    assert done.report.left_out_turns == 0


def test_a_restart_reuses_what_was_kept(with_model: Settings, clock: HandClock):
    with opened(with_model, clock) as memos:
        for text in FACTS.values():
            told(memos, clock, text, pinned=True)
        reply(memos, chat("what is the city of alice ?"))
    with opened(with_model, clock) as memos:
        done = reply(memos, chat("what is the city of alice ?"))
        assert done.report.reused_tokens >= 32
        assert done.text.strip() == "paris"


def test_another_model_reuses_nothing_of_it_and_says_so(with_model: Settings, clock: HandClock, tmp_path: Path):
    with opened(with_model, clock) as memos:
        for text in FACTS.values():
            told(memos, clock, text, pinned=True)
        reply(memos, chat("what is the city of alice ?"))
    other = replace(with_model, model_dtype="bfloat16")  # another fingerprint
    with opened(other, clock) as memos:
        done = reply(memos, chat("what is the city of alice ?"))
        assert done.report.reused_tokens == 0
        assert any("another model" in remark for remark in done.report.remarks)


@pytest.mark.parametrize("change", ["supersede", "archive", "erase"])
def test_what_was_changed_is_never_used_again(talking: MemOS, clock: HandClock, change: str):
    old = told(talking, clock, FACTS["alice"], pinned=True)
    for text in list(FACTS.values())[1:]:
        told(talking, clock, text, pinned=True)
    reply(talking, chat("what is the city of alice ?"))
    kept(talking)
    before = {row.id for row in talking.tiers("default", ME)}
    assert before
    if change == "supersede":
        clock.pass_by(minutes=1)
        talking.remember(Remember(content="the city of alice is rome", supersedes=(old,)), ME)
    else:
        mode = Mode.ARCHIVE if change == "archive" else Mode.ERASE
        confirm = talking.forget(Forget(ids=(old,), mode=mode), ME).confirm
        if confirm:
            talking.forget(Forget(confirm=confirm, mode=mode), ME)
    now = talking.tiers("default", ME)  # after an erasure the block is built again, without what went
    assert before.isdisjoint(row.id for row in now)
    assert old not in {id for row in now for id, _ in row.sources}
    done = reply(talking, chat("what is the city of alice ?"))
    assert old not in [used.id for used in done.report.used]
    assert done.text.strip() == ("rome" if change == "supersede" else "unknown")


def test_what_a_cube_holds_is_built_shown_and_dropped_by_hand(talking: MemOS, clock: HandClock):
    told(talking, clock, FACTS["alice"], pinned=True)
    for text in list(FACTS.values())[1:]:
        told(talking, clock, text)
    built = talking.build_tier("default", ME)
    assert built.prefix_tokens > 0
    assert built.chunks == 4
    kept(talking)
    forms = sorted(row.form.split()[0] for row in talking.tiers("default", ME))
    assert forms == ["chunk"] * 4 + ["prefix"]
    assert talking.drop_tier("default", ME) == 5
    assert talking.tiers("default", ME) == ()


def test_chunks_serve_in_any_order_and_that_is_said(with_model: Settings, clock: HandClock):
    with opened(replace(with_model, kv_bound=10.0), clock) as memos:
        for text in FACTS.values():
            told(memos, clock, text)
        memos.build_tier("default", ME)
        kept(memos)
        use = MemoryUse(tiers=(Tier.KV,))
        done = reply(memos, chat("what is the pet of bob ?", memory=use))
        assert {used.form for used in done.report.used} == {Form.CHUNK}
        assert done.report.recomputed_tokens > 0
        assert done.text.strip() == "cat"


def test_a_damaged_chunk_is_read_as_text_and_called_text(with_model: Settings, clock: HandClock):
    bound = replace(with_model, kv_bound=10.0)
    with opened(bound, clock) as memos:
        for text in FACTS.values():
            told(memos, clock, text)
        memos.build_tier("default", ME)
    for blob in bound.blobs_folder.iterdir():
        raw = bytearray(blob.read_bytes())
        raw[-1] ^= 1
        blob.write_bytes(raw)
    with opened(bound, clock) as memos:
        done = reply(memos, chat("what is the pet of bob ?", memory=MemoryUse(tiers=(Tier.KV,))))
        assert {used.form for used in done.report.used} == {Form.TEXT}
        assert (done.report.reused_tokens, done.report.tier) == (0, "text")
        assert any("dropped" in remark for remark in done.report.remarks)
        assert done.text.strip() == "cat"


def test_closing_a_reply_ends_it(talking: MemOS, clock: HandClock):
    told(talking, clock, FACTS["alice"])
    events = talking.chat(chat("hello", sampling=replace(GREEDY, max_tokens=2_000, temperature=1.0, seed=1)), ME)
    next(events)
    events.close()  # type: ignore[attr-defined]
    local = talking._answering._local
    assert local is not None
    until(lambda: not local.host.runner().busy, "the reply has ended long before its 2,000 tokens")
    assert reply(talking, chat("what is the city of alice ?")).text.strip() == "paris"


def test_many_conversations_at_once_keep_to_their_own_memory(talking: MemOS, clock: HandClock):
    names = list(FACTS)
    for name, text in FACTS.items():
        told(talking, clock, text, cube=name)
    wanted = {"alice": "paris", "bob": "cat", "carol": "sushi", "dave": "4711"}
    about = {"alice": "city", "bob": "pet", "carol": "food", "dave": "code"}
    found: list[tuple[str, str, str]] = []
    failed: list[BaseException] = []

    def ask(name: str, other: str) -> None:
        grants = ((name, (Action.READ,)),)
        use = MemoryUse(cubes=None)
        try:
            done = reply(
                talking,
                chat(f"what is the {about[other]} of {other} ?", memory=use),
                Caller(Principal(name, grants=grants)),
            )
            found.append((name, other, done.text.replace(" ", "")))
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=ask, args=(name, other)) for name in names for other in (name, names[0])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(found) == 8
    for name, other, text in found:
        assert text == (wanted[other] if name == other else "unknown"), (name, other)


def erase(memos: MemOS, id: str) -> None:
    confirm = memos.forget(Forget(ids=(id,), mode=Mode.ERASE), ME).confirm
    if confirm:
        memos.forget(Forget(confirm=confirm, mode=Mode.ERASE), ME)


def test_a_reply_that_waits_for_its_turn_gets_nothing_that_was_erased_meanwhile(talking: MemOS, clock: HandClock):
    old = told(talking, clock, FACTS["alice"])
    reply(talking, chat("hello"))
    local = talking._answering._local
    assert local is not None
    runner, go_on = local.host.runner(), threading.Event()
    blocking = runner.stream(lambda loaded: iter([go_on.wait()]))
    found: list[Finished] = []
    asking = threading.Thread(target=lambda: found.append(reply(talking, chat("what is the city of alice ?"))))
    asking.start()
    until(lambda: len(runner._foreground) > 0, "the reply waits behind another")
    erase(talking, old)
    go_on.set()
    asking.join()
    list(blocking)
    assert found[0].text.strip() == "unknown"
    assert found[0].report.used == ()
    assert any("left out" in remark for remark in found[0].report.remarks)


def test_a_reply_under_way_during_an_erasure_leaves_nothing_of_its_conversation(talking: MemOS, clock: HandClock):
    old = told(talking, clock, FACTS["alice"], pinned=True)
    for text in list(FACTS.values())[1:]:
        told(talking, clock, text, pinned=True)
    events = talking.chat(chat("what is the city of alice ?"), ME)
    next(events)
    erase(talking, old)
    list(events)
    kept(talking)
    local = talking._answering._local
    assert local is not None
    assert local.store.totals().caches == 0


def test_chunks_that_are_dropped_while_a_reply_begins_are_read_as_text(with_model: Settings, clock: HandClock):
    with opened(replace(with_model, kv_bound=10.0), clock) as memos:
        for text in FACTS.values():
            told(memos, clock, text)
        memos.build_tier("default", ME)
        kept(memos)
        events = memos.chat(chat("what is the pet of bob ?", memory=MemoryUse(tiers=(Tier.KV,))), ME)
        assert isinstance(next(events), Recalling)
        memos.drop_tier("default", ME)
        last = list(events)[-1]
        assert isinstance(last, Finished)
        assert last.text.strip() == "cat"


def test_a_server_that_is_not_there_is_the_trouble_of_who_named_it(talking: MemOS):
    with pytest.raises(Unavailable):
        list(talking.chat(replace(chat("hello", memory=None), model="http://127.0.0.1:9/v1"), ME))
    assert reply(talking, chat("hello", memory=None)).model.remote is False


def test_without_a_model_a_chat_says_how_to_choose_one(memos: MemOS):
    with pytest.raises(Unavailable, match="MEMOS_MODEL"):
        memos.chat(chat("hello"), ME)


def test_who_wants_no_download_gets_none_whatever_the_daemon_may_do(settings: Settings, clock: HandClock):
    free = replace(settings, offline=False)
    with opened(free, clock) as memos, pytest.raises(Unavailable, match="downloads are off"):
        memos.model(ME, "nobody/a-model-that-is-not-here", load=True, offline=True)


def test_only_the_owner_chooses_another_model(talking: MemOS):
    with pytest.raises(NotAllowed):
        talking.chat(replace(chat("hello"), model="another"), Caller(Principal("guest")))


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Chat(()), Invalid),
        (Chat((ChatTurn("assistant", "hello"),)), Invalid),
        (Chat((ChatTurn("robot", "hello"),)), Invalid),
        (chat("hello", sampling=replace(GREEDY, temperature=9.0)), Invalid),
        (chat("hello", sampling=replace(GREEDY, max_tokens=0)), Invalid),
        (chat("hello", memory=MemoryUse(limit=0)), Invalid),
        (chat("hello", memory=MemoryUse(cubes=("nowhere",))), NotFound),
    ],
)
def test_bad_requests_are_one_clear_error(talking: MemOS, request_: Chat, error: type[MemosError]):
    with pytest.raises(error):
        list(talking.chat(request_, ME))
