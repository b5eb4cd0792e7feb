"""Erasing asks the person where the client can, and takes two steps where it cannot."""

from __future__ import annotations

from typing import Any, Literal

import anyio.to_thread
import mcp_types as types
import pytest
from mcp import Client

from engine.memos import MemOS
from engine.operations import Caller, Forget, Fuse, Mode, Remember
from tests.memos_mcp.serving import ERAS, Era, HandClock, connected, remember, text_of

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("era", ERAS)]

SECRET = "The safe behind the painting opens with 17-04-88."


class Person:
    """Answers every question alike, and notes what was asked."""

    def __init__(self, action: Literal["accept", "decline", "cancel"], content: dict[str, Any] | None = None) -> None:
        self.action, self.content = action, content
        self.questions: list[str] = []

    async def __call__(self, context: Any, params: Any) -> types.ElicitResult:
        self.questions.append(params.message)
        return types.ElicitResult(action=self.action, content=self.content)


async def knows(client: Client) -> bool:
    found = await client.call_tool("recall", {"query": "What opens the safe behind the painting?"})
    return bool(found.structured_content["memories"])


async def test_a_person_who_agrees_was_shown_what_goes_and_gets_a_receipt(memos: MemOS, era: Era) -> None:
    person = Person("accept", {})
    async with connected(memos, era, elicitation_callback=person) as client:
        kept = await remember(client, SECRET)
        result = await client.call_tool("forget", {"ids": [kept], "mode": "erase", "reason": "moved"})
        assert not await knows(client)
    (question,) = person.questions
    assert question.startswith("Erase 1 memory for good? This cannot be undone.")
    assert SECRET in question
    assert result.structured_content["forgotten"] == [{"id": kept, "mode": "erase"}]
    assert result.structured_content["receipt"]["erased"] == [kept]
    assert SECRET not in text_of(result)


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_person_who_does_not_agree_loses_nothing_and_the_result_says_so(
    memos: MemOS, era: Era, action: Literal["decline", "cancel"]
) -> None:
    person = Person(action)
    async with connected(memos, era, elicitation_callback=person) as client:
        kept = await remember(client, SECRET)
        result = await client.call_tool("forget", {"ids": [kept], "mode": "erase"})
        assert await knows(client)
    assert not result.is_error
    assert result.structured_content["forgotten"] == []
    assert "nothing was erased" in result.structured_content["note"]
    assert "nothing was erased" in text_of(result)
    assert len(person.questions) == 1


async def test_a_form_that_is_sent_with_no_in_it_is_a_no(memos: MemOS, era: Era) -> None:
    async with connected(memos, era, elicitation_callback=Person("accept", {"confirm": False})) as client:
        kept = await remember(client, SECRET)
        await client.call_tool("forget", {"ids": [kept], "mode": "erase"})
        assert await knows(client)


async def test_without_a_way_to_ask_the_first_call_previews_and_the_token_acts(memos: MemOS, era: Era) -> None:
    async with connected(memos, era) as client:
        kept = await remember(client, SECRET)
        preview = await client.call_tool("forget", {"ids": [kept], "mode": "erase"})
        assert preview.structured_content["forgotten"] == []
        assert preview.structured_content["preview"] == [{"id": kept, "content": SECRET}]
        assert await knows(client)
        done = await client.call_tool("forget", {"confirm": preview.structured_content["confirm"]})
        assert not await knows(client)
    assert done.structured_content["forgotten"] == [{"id": kept, "mode": "erase"}]
    assert done.structured_content["receipt"]["id"] in text_of(done)


async def test_an_erasure_by_query_previews_and_its_token_is_asked_about(memos: MemOS, era: Era) -> None:
    person = Person("decline")
    async with connected(memos, era, elicitation_callback=person) as client:
        await remember(client, SECRET)
        preview = await client.call_tool("forget", {"query": "safe behind the painting", "mode": "erase"})
        assert person.questions == []
        await client.call_tool("forget", {"confirm": preview.structured_content["confirm"]})
        assert await knows(client)
        person.action = "accept"
        done = await client.call_tool("forget", {"confirm": preview.structured_content["confirm"]})
        assert not await knows(client)
    assert SECRET in person.questions[0]
    assert done.structured_content["forgotten"][0]["mode"] == "erase"


async def test_a_token_that_is_too_old_is_refused(memos: MemOS, clock: HandClock, era: Era) -> None:
    async with connected(memos, era) as client:
        kept = await remember(client, SECRET)
        preview = await client.call_tool("forget", {"ids": [kept], "mode": "erase"})
        clock.pass_by(minutes=11)
        late = await client.call_tool("forget", {"confirm": preview.structured_content["confirm"]})
        assert await knows(client)
    assert late.is_error
    assert text_of(late).startswith("Expired: ")


async def test_archiving_never_asks(memos: MemOS, era: Era) -> None:
    person = Person("decline")
    async with connected(memos, era, elicitation_callback=person) as client:
        kept = await remember(client, SECRET)
        await client.call_tool("forget", {"ids": [kept]})
        assert not await knows(client)
    assert person.questions == []


async def test_ids_that_nobody_knows_are_not_asked_about(memos: MemOS, era: Era) -> None:
    person = Person("accept")
    async with connected(memos, era, elicitation_callback=person) as client:
        result = await client.call_tool("forget", {"ids": ["m_unknown"], "mode": "erase"})
    assert result.is_error
    assert person.questions == []


async def test_an_erasure_that_is_sent_again_gets_its_recorded_answer_and_nobody_is_asked_again(
    memos: MemOS, era: Era
) -> None:
    person = Person("accept", {})
    async with connected(memos, era, elicitation_callback=person) as client:
        kept = await remember(client, SECRET)
        erase, meta = {"ids": [kept], "mode": "erase", "reason": "moved"}, {"io.memos/operation": "op-1"}
        first, again = [await client.call_tool("forget", erase, meta=meta) for _ in range(2)]
    assert first.structured_content["receipt"]["erased"] == [kept]
    assert again.structured_content == first.structured_content
    assert len(person.questions) == 1


async def test_a_confirmed_erasure_that_is_sent_again_gets_its_recorded_answer_too(memos: MemOS, era: Era) -> None:
    person = Person("accept", {})
    async with connected(memos, era, elicitation_callback=person) as client:
        await remember(client, SECRET)
        preview = await client.call_tool("forget", {"query": "safe behind the painting", "mode": "erase"})
        confirm, meta = {"confirm": preview.structured_content["confirm"]}, {"io.memos/operation": "op-2"}
        first, again = [await client.call_tool("forget", confirm, meta=meta) for _ in range(2)]
    assert first.structured_content["receipt"] is not None
    assert again.structured_content == first.structured_content
    assert len(person.questions) == 1


async def test_after_a_restart_a_token_is_asked_about_without_showing_anything(memos: MemOS, era: Era) -> None:
    async with connected(memos, era) as client:
        await remember(client, SECRET)
        preview = await client.call_tool("forget", {"query": "safe behind the painting", "mode": "erase"})
    confirm = {"confirm": preview.structured_content["confirm"]}
    person = Person("decline")
    async with connected(memos, era, elicitation_callback=person) as client:
        await client.call_tool("forget", {**confirm, "mode": "archive"})
        assert await knows(client)
        person.action = "accept"
        done = await client.call_tool("forget", confirm)
        assert not await knows(client)
    assert done.structured_content["forgotten"][0]["mode"] == "erase"
    assert len(person.questions) == 2
    assert SECRET not in "".join(person.questions)
    assert "cannot be undone" in person.questions[0]


async def test_what_is_erased_meanwhile_is_shown_to_nobody(memos: MemOS, era: Era) -> None:
    person = Person("decline")
    async with connected(memos, era, elicitation_callback=person) as client:
        kept = await remember(client, SECRET)
        preview = await client.call_tool("forget", {"query": "safe behind the painting", "mode": "erase"})
        gone = Forget(ids=(kept,), mode=Mode.ERASE, confirmed=True)
        await anyio.to_thread.run_sync(memos.forget, gone, Caller())
        await client.call_tool("forget", {"confirm": preview.structured_content["confirm"]})
    assert len(person.questions) == 1
    assert SECRET not in person.questions[0]


async def test_an_archive_s_token_is_not_asked_about(memos: MemOS, era: Era) -> None:
    person = Person("decline")
    async with connected(memos, era, elicitation_callback=person) as client:
        await remember(client, SECRET)
        preview = await client.call_tool("forget", {"query": "safe behind the painting"})
        done = await client.call_tool("forget", {"confirm": preview.structured_content["confirm"]})
    assert done.structured_content["forgotten"][0]["mode"] == "archive"
    assert person.questions == []


async def test_more_than_the_person_was_shown_is_not_erased(memos: MemOS, era: Era) -> None:
    kept, other = (memos.remember(Remember(content=text), Caller()).stored[0].id for text in (SECRET, "A safe is old."))

    async def fuses_and_agrees(context: Any, params: Any) -> types.ElicitResult:
        await anyio.to_thread.run_sync(memos.fuse, Fuse(ids=(kept, other)), Caller())
        return types.ElicitResult(action="accept", content={})

    async with connected(memos, era, elicitation_callback=fuses_and_agrees) as client:
        result = await client.call_tool("forget", {"ids": [kept], "mode": "erase"})
    assert text_of(result).startswith("Conflict: ")
    assert memos.memory(kept, Caller()).memory.content == SECRET
