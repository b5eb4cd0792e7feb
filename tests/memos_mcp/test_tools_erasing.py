"""Erasing asks the person where the client can, and takes two steps where it cannot."""

from __future__ import annotations

from typing import Any, Literal

import mcp_types as types
import pytest
from mcp import Client

from engine.memos import MemOS
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
