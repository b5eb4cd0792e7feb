"""Tools over MCP: listing them, calling them, and telling failures that are expected from malformed requests.

What a tool refuses is a result with `isError`, so that the model reads the remedy; what is no proper call at all (an
unknown tool) is a protocol error. Anything unexpected is left to the server's outermost edge.
"""

from __future__ import annotations

from collections.abc import Mapping

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    ToolAnnotations,
)
from mcp_types import Tool as WireTool

from engine.errors import MemosError
from memos_mcp.service import Context, caller_of
from memos_mcp.tools.asking import Previews, ask_before_erasing, must_ask
from memos_mcp.tools.forget import FORGET
from memos_mcp.tools.tool import Result, Tool
from memos_mcp.wire import encodable, shown


class ToolCalls:
    """The handlers of `tools/list` and `tools/call`."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self._tools = tools
        self._previews = Previews()
        self._listed = [_on_the_wire(tool) for tool in tools.values()]

    async def on_list(self, ctx: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        if params is not None and params.cursor is not None:
            raise MCPError(INVALID_PARAMS, "tools/list has one page: leave the cursor out")
        return ListToolsResult(tools=self._listed)

    async def on_call(self, ctx: Context, params: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
        tool = self._tools.get(params.name)
        if tool is None:
            raise MCPError(INVALID_PARAMS, f"Unknown tool {shown(params.name)!r}: there are {', '.join(self._tools)}")
        try:
            return await self._call(tool, ctx, params)
        except MemosError as error:
            return refused(error)

    async def _call(
        self, tool: Tool, ctx: Context, params: CallToolRequestParams
    ) -> CallToolResult | InputRequiredResult:
        arguments, caller, memos = params.arguments or {}, caller_of(ctx), ctx.lifespan_context.memos

        if must_ask(tool, ctx, arguments, caller, self._previews):
            outcome = await ask_before_erasing(ctx, params, caller, self._previews)
            if isinstance(outcome, InputRequiredResult):
                return outcome
        else:
            outcome = await ctx.lifespan_context.run(ctx, lambda progress: tool.run(memos, arguments, caller, progress))
        if tool is FORGET:
            self._previews.note(caller, arguments, outcome)
        return answered(tool, outcome)


def answered(tool: Tool, result: Result) -> CallToolResult:
    """A result in both forms, each complete by itself."""
    failure = tool.failure(result)
    text = tool.text(result) if failure is None else f"{failure}\n{tool.text(result)}"
    return CallToolResult(
        content=[TextContent(text=encodable(text))], structured_content=result, is_error=failure is not None
    )


def refused(error: MemosError) -> CallToolResult:
    """A refusal that the model can read: the code, the reason and the remedy."""
    return CallToolResult(content=[TextContent(text=encodable(f"{error.code}: {error}"))], is_error=True)


def _on_the_wire(tool: Tool) -> WireTool:
    return WireTool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.input_schema,
        output_schema=tool.output_schema,
        annotations=ToolAnnotations(
            read_only_hint=tool.hints.read_only,
            destructive_hint=tool.hints.destructive,
            idempotent_hint=tool.hints.idempotent,
            open_world_hint=False,
        ),
    )
