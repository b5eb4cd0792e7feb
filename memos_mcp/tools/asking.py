"""Asking the person before anything is erased for good.

Where the client can put a question to the person, an erasure is first previewed, then asked, then done with the
preview's own token: what is erased is exactly what the person was shown. In the handshake era the question is a request
to the client in the middle of the call; in the 2026 era the call answers that it needs input and the client calls again
with the answer, and the token travels in the sealed request state meanwhile.

A refusal, a dismissal and an answer that cannot be read all change nothing.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mcp.shared.exceptions import MCPError
from mcp_types import CallToolRequestParams, ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult

from engine.operations import Mode
from memos_mcp.service import Context, is_modern
from memos_mcp.tools.forget import FORGET, ForgetArguments
from memos_mcp.tools.tool import Result, Tool, plural
from memos_mcp.wire import encodable, parse

logger = logging.getLogger(__name__)

QUESTION = "erase"
KEPT_PREVIEWS = 1_000
SHOWN_MEMORIES = 10
SHOWN_CHARS = 120  # of each memory
NO_FIELDS: dict[str, Any] = {"type": "object", "properties": {}}  # the answer is accepting or declining

Run = Callable[[Mapping[str, Any]], Awaitable[Result]]


class Previews:
    """Erasures that were previewed, by their tokens: what to show when a token comes to be asked about."""

    def __init__(self) -> None:
        self._shown: OrderedDict[str, Result] = OrderedDict()

    def note(self, arguments: Mapping[str, Any], result: Result) -> None:
        """Remember a preview of an erasure."""
        if arguments.get("mode") == Mode.ERASE.value and result["confirm"] is not None:
            self._shown[result["confirm"]] = result
            while len(self._shown) > KEPT_PREVIEWS:
                self._shown.popitem(last=False)

    def of(self, asked: ForgetArguments) -> Result | None:
        """What `asked` would erase, when it comes with the token of an erasure."""
        if asked.confirm is None:
            return None
        unknown = {"preview": [], "confirm": asked.confirm} if asked.mode == Mode.ERASE.value else None
        return self._shown.get(asked.confirm, unknown)


def must_ask(tool: Tool, ctx: Context, arguments: Mapping[str, Any], previews: Previews) -> bool:
    """Whether this call would erase, and its client can ask the person."""
    if tool is not FORGET or not _can_ask(ctx):
        return False
    asked = parse(ForgetArguments, arguments)
    return previews.of(asked) is not None or (asked.mode == Mode.ERASE.value and asked.ids is not None)


async def ask_before_erasing(
    ctx: Context, params: CallToolRequestParams, previews: Previews, run: Run
) -> Result | InputRequiredResult:
    """Preview, ask, and erase if the person agrees."""
    answer = (params.input_responses or {}).get(QUESTION)
    if is_modern(ctx) and params.request_state is not None and isinstance(answer, ElicitResult):
        return await _act(answer, params.request_state, params, run)
    arguments = params.arguments or {}
    preview = previews.of(parse(ForgetArguments, arguments)) or await run(arguments)
    if preview["confirm"] is None:
        return preview  # nothing to erase, so nothing to ask about
    question = ElicitRequestFormParams(message=_question(preview), requested_schema=NO_FIELDS)
    if is_modern(ctx):
        asked = ElicitRequest(params=question)
        return InputRequiredResult(input_requests={QUESTION: asked}, request_state=preview["confirm"])
    try:
        answer = await ctx.session.elicit_form(question.message, NO_FIELDS, related_request_id=ctx.request_id)
    except MCPError:
        logger.info("the client could not ask the person: the confirm token is the guard")
        return preview
    return await _act(answer, preview["confirm"], params, run)


async def _act(answer: ElicitResult, confirm: str, params: CallToolRequestParams, run: Run) -> Result:
    refused_in_form = any(value is False for value in (answer.content or {}).values())
    if answer.action != "accept" or refused_in_form:
        return _declined("was dismissed" if answer.action == "cancel" else "was declined")
    arguments = {"confirm": confirm, "mode": Mode.ERASE.value, "reason": (params.arguments or {}).get("reason")}
    return await run(arguments)


def _declined(how: str) -> Result:
    return {
        "forgotten": [],
        "not_found": [],
        "preview": [],
        "confirm": None,
        "invalidated": {"kv": 0, "lora": 0},
        "receipt": None,
        "note": f"The question to the person {how}: nothing was erased, nothing was changed.",
    }


def _question(preview: Result) -> str:
    seen = preview["preview"]
    what = plural(len(seen), "memory") if seen else "the memories of this preview"
    lines = [f"Erase {what} for good? This cannot be undone."]
    for memory in seen[:SHOWN_MEMORIES]:
        flat = " ".join(memory["content"].split())
        lines.append(f"- {flat[:SHOWN_CHARS]}{'…' if len(flat) > SHOWN_CHARS else ''} ({memory['id']})")
    if len(seen) > SHOWN_MEMORIES:
        lines.append(f"- and {len(seen) - SHOWN_MEMORIES:,} more")
    return encodable("\n".join(lines))


def _can_ask(ctx: Context) -> bool:
    capabilities = ctx.session.client_capabilities
    elicitation = capabilities.elicitation if capabilities is not None else None
    if elicitation is None or (elicitation.form is None and elicitation.url is not None):
        return False
    return is_modern(ctx) or ctx.session.can_send_request
