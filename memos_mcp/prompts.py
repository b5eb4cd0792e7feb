"""Prompts: what a person can pick to use memory well, in one step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    GetPromptRequestParams,
    GetPromptResult,
    ListPromptsResult,
    PaginatedRequestParams,
    Prompt,
    PromptArgument,
    PromptMessage,
    TextContent,
)

from engine.operations import DEFAULT_CUBE, silent
from memos_mcp.service import Context, caller_of
from memos_mcp.tools.recall import RECALL
from memos_mcp.tools.tool import plural
from memos_mcp.wire import Arguments, CubeName, Query, encodable, parse, shown


class TopicArguments(Arguments):
    topic: Query


class NoArguments(Arguments):
    pass


class CubeArguments(Arguments):
    cube: CubeName = DEFAULT_CUBE


async def _recall_context(ctx: Context, arguments: dict[str, Any]) -> str:
    topic = parse(TopicArguments, arguments).topic
    memos, caller = ctx.lifespan_context.memos, caller_of(ctx)
    found = await ctx.lifespan_context.read(lambda: RECALL.run(memos, {"query": topic}, caller, silent))
    return (
        f"This is what memory holds about: {topic}\n\n{RECALL.text(found)}\n\n"
        "Continue with this context. Say which of it you rely on, and ask where it contradicts itself or is out of "
        "date. Call recall for more."
    )


async def _save_session(ctx: Context, arguments: dict[str, Any]) -> str:
    parse(NoArguments, arguments)
    return (
        "Save what is worth keeping from this session, with the remember tool.\n"
        "1. Keep decisions and their reasons, facts and preferences that the person stated, results, open questions, "
        "and how-tos that worked. Leave out small talk, guesses, secrets, and whatever came from recall.\n"
        "2. One memory for each thing, in words that stand alone: names, absolute dates, numbers with units.\n"
        "3. Call recall first where a memory may exist already; if it changed, pass its id in supersedes.\n"
        "4. Give occurred_at when the thing has a date, and a tag or two that a later search would use.\n"
        "5. End with a short list for the person of what was stored, and of every conflict that was reported."
    )


async def _reflect(ctx: Context, arguments: dict[str, Any]) -> str:
    cube = parse(CubeArguments, arguments).cube
    memos, caller = ctx.lifespan_context.memos, caller_of(ctx)
    view = await ctx.lifespan_context.read(lambda: memos.cube(cube, caller))
    return (
        f"Tend the cube '{cube}', which holds {plural(view.memories, 'memory')}.\n"
        f"1. Call fuse with cube='{cube}' alone: it proposes groups worth fusing and changes nothing.\n"
        "2. Recall each group's memories. Where they say one thing in pieces, propose one text that keeps every "
        "number, date and name, and fuse them with it in content.\n"
        "3. Where two contradict each other, ask the person which holds; then remember the answer with supersedes.\n"
        "4. Name memories that look out of date or useless; forget them only when the person agrees.\n"
        "5. End with what you changed and what you left."
    )


@dataclass(frozen=True, slots=True)
class Offered:
    """A prompt and what writes it."""

    listed: Prompt
    write: Callable[[Context, dict[str, Any]], Awaitable[str]]


def _offer(
    write: Callable[[Context, dict[str, Any]], Awaitable[str]],
    name: str,
    title: str,
    description: str,
    *arguments: PromptArgument,
) -> Offered:
    return Offered(Prompt(name=name, title=title, description=description, arguments=list(arguments)), write)


PROMPTS = {
    offered.listed.name: offered
    for offered in (
        _offer(
            _recall_context,
            "recall_context",
            "Recall context",
            "Bring what memory holds about a topic into this chat",
            PromptArgument(name="topic", description="What it is about", required=True),
        ),
        _offer(_save_session, "save_session", "Save session", "Keep what is worth keeping from this session"),
        _offer(
            _reflect,
            "reflect",
            "Reflect",
            "Tend a cube: fuse what overlaps, settle what contradicts",
            PromptArgument(name="cube", description=f"Name of the cube (default: {DEFAULT_CUBE})", required=False),
        ),
    )
}


async def on_list(ctx: Context, params: PaginatedRequestParams | None) -> ListPromptsResult:
    """The prompts, on one page."""
    if params is not None and params.cursor is not None:
        raise MCPError(INVALID_PARAMS, "prompts/list has one page: leave the cursor out")
    return ListPromptsResult(prompts=[offered.listed for offered in PROMPTS.values()])


async def on_get(ctx: Context, params: GetPromptRequestParams) -> GetPromptResult:
    """One prompt, filled in."""
    offered = PROMPTS.get(params.name)
    if offered is None:
        raise MCPError(INVALID_PARAMS, f"Unknown prompt {shown(params.name)!r}: there are {', '.join(PROMPTS)}")
    text = await offered.write(ctx, dict(params.arguments or {}))
    return GetPromptResult(
        description=offered.listed.description,
        messages=[PromptMessage(role="user", content=TextContent(text=encodable(text)))],
    )
