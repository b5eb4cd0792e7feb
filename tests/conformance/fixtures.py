"""What the official conformance suite expects to find in a server under test, as handlers over our own.

Its scenarios call tools, read resources and get prompts of fixed names. They are added to the real server here, in
front of its real handlers: whatever is not a fixture goes to the real ones. Nothing of this is installed with the
product.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import mcp_types as types
from mcp.server import Server, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata

Context = ServerRequestContext[Any, Any]
Params = types.CallToolRequestParams
ToolResult = types.CallToolResult | types.InputRequiredResult
ToolHandler = Callable[[Context, Params], Awaitable[ToolResult]]

STEP_S = 0.05  # the suite asks for this pause between notifications
NOTHING: dict[str, Any] = {"type": "object", "properties": {}}


def _png() -> str:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(b"\x00\xff\x00\x00")
    image = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
    return base64.b64encode(image).decode()


def _wav() -> str:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8) + struct.pack("<4sI", b"data", 0)
    return base64.b64encode(b"RIFF" + struct.pack("<I", 4 + len(form)) + b"WAVE" + form).decode()


PNG, WAV = _png(), _wav()
IMAGE = types.ImageContent(data=PNG, mime_type="image/png")


def says(text: str, *more: Any) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text), *more])


def form(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def asks(message: str, schema: dict[str, Any]) -> types.ElicitRequest:
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def samples(text: str, max_tokens: int) -> types.CreateMessageRequest:
    message = types.SamplingMessage(role="user", content=types.TextContent(text=text))
    return types.CreateMessageRequest(
        params=types.CreateMessageRequestParams(messages=[message], max_tokens=max_tokens)
    )


def needs(state: str | None = None, **requests: Any) -> types.InputRequiredResult:
    return types.InputRequiredResult(input_requests=requests, request_state=state)


STRING = {"type": "string"}
NAME = asks("What is your name?", form(name=STRING))
CONFIRM = asks("Please confirm", form(ok={"type": "boolean"}))


# --- tools ------------------------------------------------------------------------------------------------------


def always(result: types.CallToolResult) -> ToolHandler:
    async def answer(ctx: Context, params: Params) -> ToolResult:
        return result

    return answer


def resource(uri: str, mime_type: str, text: str) -> types.EmbeddedResource:
    return types.EmbeddedResource(resource=types.TextResourceContents(uri=uri, mime_type=mime_type, text=text))


async def logs(ctx: Context, params: Params) -> ToolResult:
    for position, text in enumerate(("Tool execution started", "Tool processing data", "Tool execution completed")):
        if position:
            await anyio.sleep(STEP_S)
        level = (ctx.meta or {}).get("io.modelcontextprotocol/logLevel", None)
        if level is not None or ctx.protocol_version < "2026":
            body = types.LoggingMessageNotificationParams(level="info", data=text)
            await ctx.session.send_notification(types.LoggingMessageNotification(params=body), ctx.request_id)
    return says("logged")


async def progresses(ctx: Context, params: Params) -> ToolResult:
    for done in (0, 50, 100):
        await ctx.session.report_progress(done, 100)
        await anyio.sleep(STEP_S)
    return says("done")


async def request(ctx: Context, wanted: Any, result_type: Any) -> Any:
    related = ServerMessageMetadata(related_request_id=ctx.request_id)
    return await ctx.session.send_request(wanted, result_type, metadata=related)


async def samples_legacy(ctx: Context, params: Params) -> ToolResult:
    prompt = (params.arguments or {})["prompt"]
    answer = await request(ctx, samples(prompt, 100), types.CreateMessageResult)
    return says(f"LLM response: {answer.content.text}")


def elicits(schema: dict[str, Any], opening: str, message: str | None = None) -> ToolHandler:
    async def ask(ctx: Context, params: Params) -> ToolResult:
        text = message or (params.arguments or {})["message"]
        answer = await request(ctx, asks(text, schema), types.ElicitResult)
        return says(f"{opening}: action={answer.action}, content={answer.content}")

    return ask


def input_tool(key: str, wanted: Any, say: Callable[[Any], str], state: str | None = None) -> ToolHandler:
    async def ask(ctx: Context, params: Params) -> ToolResult:
        answer = (params.input_responses or {}).get(key)
        if answer is None or (state is not None and params.request_state != state):
            return needs(state, **{key: wanted})
        return says(say(answer))

    return ask


async def multiple_inputs(ctx: Context, params: Params) -> ToolResult:
    wanted = {
        "user_name": NAME,
        "greeting": samples("Generate a greeting", 50),
        "client_roots": types.ListRootsRequest(),
    }
    if params.request_state != "asked" or not set(wanted) <= set(params.input_responses or {}):
        return needs("asked", **wanted)
    return says("all answered")


async def multi_round(ctx: Context, params: Params) -> ToolResult:
    answers = params.input_responses or {}
    if params.request_state == "one" and "step1" in answers:
        return needs("two", step2=asks("Step 2: What is your favorite color?", form(color=STRING)))
    if params.request_state == "two" and "step2" in answers:
        return says("both steps are done")
    return needs("one", step1=asks("Step 1: What is your name?", form(name=STRING)))


async def by_capabilities(ctx: Context, params: Params) -> ToolResult:
    has = ctx.session.client_capabilities or types.ClientCapabilities()
    wanted: dict[str, Any] = {}
    if has.sampling is not None:
        wanted["capital_question"] = samples("What is the capital of France?", 100)
    if has.elicitation is not None:
        wanted["user_name"] = NAME
    return needs(**wanted) if wanted else says("nothing to ask with")


async def missing_capability(ctx: Context, params: Params) -> ToolResult:
    has = ctx.session.client_capabilities
    if has is None or has.sampling is None:
        raise MCPError(
            types.MISSING_REQUIRED_CLIENT_CAPABILITY, "sampling is needed", {"requiredCapabilities": {"sampling": {}}}
        )
    return says("sampling is there")


def _enums() -> dict[str, Any]:
    def titled(word: str) -> list[dict[str, str]]:
        names = enumerate(("First", "Second", "Third"), 1)
        return [{"const": f"value{n}", "title": f"{name} {word}"} for n, name in names]

    options, short = [f"option{n}" for n in (1, 2, 3)], [f"opt{n}" for n in (1, 2, 3)]
    return {
        "type": "object",
        "properties": {
            "untitledSingle": {"type": "string", "enum": options},
            "titledSingle": {"type": "string", "oneOf": titled("Option")},
            "legacyEnum": {"type": "string", "enum": short, "enumNames": ["Option One", "Option Two", "Option Three"]},
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
            "titledMulti": {"type": "array", "items": {"anyOf": titled("Choice")}},
        },
    }


DEFAULTS = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    },
}

TOOLS: dict[str, tuple[dict[str, Any], ToolHandler]] = {
    "test_simple_text": (NOTHING, always(says("This is a simple text response for testing."))),
    "test_image_content": (NOTHING, always(types.CallToolResult(content=[IMAGE]))),
    "test_audio_content": (
        NOTHING,
        always(types.CallToolResult(content=[types.AudioContent(data=WAV, mime_type="audio/wav")])),
    ),
    "test_embedded_resource": (
        NOTHING,
        always(
            types.CallToolResult(
                content=[resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")]
            )
        ),
    ),
    "test_multiple_content_types": (
        NOTHING,
        always(
            says(
                "Multiple content types test:",
                IMAGE,
                resource("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
            )
        ),
    ),
    "test_error_handling": (
        NOTHING,
        always(
            types.CallToolResult(
                content=[types.TextContent(text="This tool intentionally returns an error for testing")], is_error=True
            )
        ),
    ),
    "test_tool_with_logging": (NOTHING, logs),
    "test_logging_tool": (NOTHING, logs),
    "test_tool_with_progress": (NOTHING, progresses),
    "test_sampling": (form(prompt=STRING), samples_legacy),
    "test_elicitation": (form(message=STRING), elicits(form(username=STRING, email=STRING), "User response")),
    "test_elicitation_sep1034_defaults": (NOTHING, elicits(DEFAULTS, "Elicitation completed", "Please review")),
    "test_elicitation_sep1330_enums": (NOTHING, elicits(_enums(), "Elicitation completed", "Please choose")),
    "test_input_required_result_elicitation": (
        NOTHING,
        input_tool("user_name", NAME, lambda answer: f"Hello, {(answer.content or {}).get('name')}!"),
    ),
    "test_input_required_result_sampling": (
        NOTHING,
        input_tool("capital_question", samples("What is the capital of France?", 100), lambda a: a.content.text),
    ),
    "test_input_required_result_list_roots": (
        NOTHING,
        input_tool("client_roots", types.ListRootsRequest(), lambda a: ", ".join(str(root.uri) for root in a.roots)),
    ),
    "test_input_required_result_request_state": (
        NOTHING,
        input_tool("confirm", CONFIRM, lambda answer: "state-ok", "the state"),
    ),
    "test_input_required_result_tampered_state": (
        NOTHING,
        input_tool("confirm", CONFIRM, lambda answer: "state-ok", "the state"),
    ),
    "test_input_required_result_multiple_inputs": (NOTHING, multiple_inputs),
    "test_input_required_result_multi_round": (NOTHING, multi_round),
    "test_input_required_result_capabilities": (NOTHING, by_capabilities),
    "test_missing_capability": (NOTHING, missing_capability),
    "test_streaming_elicitation": (NOTHING, input_tool("user_name", NAME, lambda answer: "answered")),
}


# --- resources and prompts --------------------------------------------------------------------------------------

RESOURCES: dict[str, types.TextResourceContents | types.BlobResourceContents] = {
    "test://static-text": types.TextResourceContents(
        uri="test://static-text", mime_type="text/plain", text="This is the content of the static text resource."
    ),
    "test://static-binary": types.BlobResourceContents(uri="test://static-binary", mime_type="image/png", blob=PNG),
    "test://watched-resource": types.TextResourceContents(
        uri="test://watched-resource", mime_type="text/plain", text="watched"
    ),
}
TEMPLATE = "test://template/{id}/data"


def from_template(uri: str) -> types.TextResourceContents | None:
    head, tail = TEMPLATE.split("{id}")
    if not (uri.startswith(head) and uri.endswith(tail)):
        return None
    name = uri[len(head) : -len(tail)]
    text = f'{{"id":"{name}","templateTest":true,"data":"Data for ID: {name}"}}'
    return types.TextResourceContents(uri=uri, mime_type="application/json", text=text)


def user(content: Any) -> types.PromptMessage:
    return types.PromptMessage(role="user", content=content)


def _simple(arguments: dict[str, str]) -> list[types.PromptMessage]:
    return [user(types.TextContent(text="This is a simple prompt for testing."))]


def _with_arguments(arguments: dict[str, str]) -> list[types.PromptMessage]:
    text = f"Prompt with arguments: arg1='{arguments['arg1']}', arg2='{arguments['arg2']}'"
    return [user(types.TextContent(text=text))]


def _with_resource(arguments: dict[str, str]) -> list[types.PromptMessage]:
    embedded = resource(arguments["resourceUri"], "text/plain", "Embedded resource content for testing.")
    return [user(embedded), user(types.TextContent(text="Please process the embedded resource above."))]


def _with_image(arguments: dict[str, str]) -> list[types.PromptMessage]:
    return [user(IMAGE), user(types.TextContent(text="Please analyze the image above."))]


INPUT_PROMPT = "test_input_required_result_prompt"
PROMPTS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, str]], list[types.PromptMessage]]]] = {
    "test_simple_prompt": ((), _simple),
    "test_prompt_with_arguments": (("arg1", "arg2"), _with_arguments),
    "test_prompt_with_embedded_resource": (("resourceUri",), _with_resource),
    "test_prompt_with_image": ((), _with_image),
    INPUT_PROMPT: ((), _simple),
}


# --- in front of the real handlers ------------------------------------------------------------------------------


def add_fixtures(server: Server[Any]) -> None:
    """Put the fixtures in front of the handlers that `server` has."""
    in_front(server, "tools/list", types.PaginatedRequestParams, list_tools)
    in_front(server, "tools/call", types.CallToolRequestParams, call_tool)
    in_front(server, "resources/list", types.PaginatedRequestParams, list_resources)
    in_front(server, "resources/templates/list", types.PaginatedRequestParams, list_templates)
    in_front(server, "resources/read", types.ReadResourceRequestParams, read_resource)
    in_front(server, "resources/subscribe", types.SubscribeRequestParams, accept_ours)
    in_front(server, "resources/unsubscribe", types.UnsubscribeRequestParams, accept_ours)
    in_front(server, "prompts/list", types.PaginatedRequestParams, list_prompts)
    in_front(server, "prompts/get", types.GetPromptRequestParams, get_prompt)
    in_front(server, "completion/complete", types.CompleteRequestParams, complete)

    async def set_level(ctx: Context, params: types.SetLevelRequestParams) -> types.EmptyResult:
        return types.EmptyResult()

    server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, set_level)


def in_front(server: Server[Any], method: str, params_type: Any, fixture: Any) -> None:
    entry = server.get_request_handler(method)
    assert entry is not None, method

    async def handle(ctx: Context, params: Any) -> Any:
        return await fixture(ctx, params, entry.handler)

    server.add_request_handler(method, params_type, handle)


async def list_tools(ctx: Context, params: Any, real: Any) -> types.ListToolsResult:
    listed = await real(ctx, params)
    ours = [types.Tool(name=name, description=name, input_schema=schema) for name, (schema, _) in TOOLS.items()]
    return types.ListToolsResult(tools=[*listed.tools, *ours])


async def call_tool(ctx: Context, params: Params, real: Any) -> Any:
    return await TOOLS[params.name][1](ctx, params) if params.name in TOOLS else await real(ctx, params)


async def list_resources(ctx: Context, params: Any, real: Any) -> types.ListResourcesResult:
    listed = await real(ctx, params)
    ours = [
        types.Resource(name=uri, uri=uri, description=uri, mime_type=content.mime_type)
        for uri, content in RESOURCES.items()
    ]
    return types.ListResourcesResult(resources=[*listed.resources, *ours], next_cursor=listed.next_cursor)


async def list_templates(ctx: Context, params: Any, real: Any) -> types.ListResourceTemplatesResult:
    listed = await real(ctx, params)
    ours = types.ResourceTemplate(name="template", uri_template=TEMPLATE, description="a template")
    return types.ListResourceTemplatesResult(resource_templates=[*listed.resource_templates, ours])


async def read_resource(ctx: Context, params: types.ReadResourceRequestParams, real: Any) -> Any:
    content = RESOURCES.get(params.uri) or from_template(params.uri)
    return await real(ctx, params) if content is None else types.ReadResourceResult(contents=[content])


async def accept_ours(ctx: Context, params: Any, real: Any) -> Any:
    return types.EmptyResult() if params.uri in RESOURCES else await real(ctx, params)


async def list_prompts(ctx: Context, params: Any, real: Any) -> types.ListPromptsResult:
    listed = await real(ctx, params)
    ours = [
        types.Prompt(
            name=name,
            description=name,
            arguments=[types.PromptArgument(name=argument, description=argument, required=True) for argument in takes],
        )
        for name, (takes, _) in PROMPTS.items()
    ]
    return types.ListPromptsResult(prompts=[*listed.prompts, *ours])


async def get_prompt(ctx: Context, params: types.GetPromptRequestParams, real: Any) -> Any:
    if params.name not in PROMPTS:
        return await real(ctx, params)
    if params.name == INPUT_PROMPT and "user_context" not in (params.input_responses or {}):
        return needs(user_context=asks("What context should the prompt use?", form(context=STRING)))
    return types.GetPromptResult(messages=PROMPTS[params.name][1](dict(params.arguments or {})))


async def complete(ctx: Context, params: types.CompleteRequestParams, real: Any) -> Any:
    if isinstance(params.ref, types.PromptReference) and params.ref.name in PROMPTS:
        return types.CompleteResult(completion=types.Completion(values=[], has_more=False))
    return await real(ctx, params)
