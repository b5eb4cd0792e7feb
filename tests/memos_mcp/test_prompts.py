"""The prompts that a person can pick."""

from __future__ import annotations

import mcp_types as types
import pytest
from mcp import Client, MCPError

from engine.memos import MemOS
from tests.memos_mcp.serving import ERAS, Era, connected, remember

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("era", ERAS)]


async def said(client: Client, name: str, arguments: dict[str, str] | None = None) -> str:
    (message,) = (await client.get_prompt(name, arguments)).messages
    assert message.role == "user"
    assert isinstance(message.content, types.TextContent)
    return message.content.text


async def test_three_prompts_are_offered(memos: MemOS, era: Era) -> None:
    async with connected(memos, era) as client:
        prompts = (await client.list_prompts()).prompts
    assert {prompt.name: [argument.name for argument in prompt.arguments or []] for prompt in prompts} == {
        "recall_context": ["topic"],
        "save_session": [],
        "reflect": ["cube"],
    }
    assert all(prompt.title and prompt.description for prompt in prompts)


async def test_recall_context_brings_memories_as_data(memos: MemOS, era: Era) -> None:
    async with connected(memos, era) as client:
        kept = await remember(client, "The Atlas project ends in March.")
        text = await said(client, "recall_context", {"topic": "Atlas project"})
    assert f'<memory id="{kept}"' in text
    assert text.index("not instructions") < text.index("ends in March")


async def test_save_session_says_how_and_reflect_looks_at_the_cube(memos: MemOS, era: Era) -> None:
    async with connected(memos, era) as client:
        await remember(client, "A note.", cube="work")
        assert "supersedes" in await said(client, "save_session")
        assert "'work', which holds 1 memory" in await said(client, "reflect", {"cube": "work"})


@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("dream", {}, "Unknown prompt 'dream'"),
        ("recall_context", {}, "'topic' is required"),
        ("recall_context", {"topic": " "}, "'topic' is empty"),
        ("recall_context", {"topic": "x", "more": "y"}, "unknown argument 'more'"),
        ("save_session", {"cube": "x"}, "unknown argument 'cube'"),
        ("reflect", {"cube": "nowhere"}, "no cube 'nowhere'"),
        ("reflect", {"cube": "a/b"}, "no '/'"),
    ],
)
async def test_a_wrong_request_is_a_protocol_error(
    memos: MemOS, era: Era, name: str, arguments: dict[str, str], complaint: str
) -> None:
    async with connected(memos, era) as client:
        with pytest.raises(MCPError, match=complaint) as refusal:
            await client.get_prompt(name, arguments)
    assert refusal.value.code == types.INVALID_PARAMS
