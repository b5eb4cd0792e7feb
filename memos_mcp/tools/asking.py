"""Asking the person before anything is erased for good.

Where the client can put a question to the person, an erasure is first previewed, then asked about, then done if what
it takes is still what the person was shown. In the handshake era the question is a request to the client in the middle
of the call; in the 2026 era the call answers that it needs input and the client calls again with the answer, and a
digest of what was shown travels in the sealed request state meanwhile. The erasure is recorded under the request as it
came: sent again, it gets the recorded answer, and nobody is asked again.

What stays true: a refusal, a dismissal and an answer that cannot be read all change nothing; nobody is shown what they
may not read themselves; no content of a memory is kept here.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mcp.shared.exceptions import MCPError
from mcp_types import CallToolRequestParams, ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult

from cubes.canonical import digest
from engine.errors import Conflict, NotAllowed, NotFound
from engine.operations import CONFIRM_MINUTES, Caller, Forget, Mode
from memos_mcp.service import Context, is_modern
from memos_mcp.tools.forget import FORGET, rendered, request_of
from memos_mcp.tools.tool import Result, Tool, plural
from memos_mcp.wire import encodable

logger = logging.getLogger(__name__)

QUESTION = "erase"
KEPT_PREVIEWS = 1_000
KEPT_S = 60.0 * CONFIRM_MINUTES
SHOWN_MEMORIES = 10
SHOWN_CHARS = 120  # of each memory
NO_FIELDS: dict[str, Any] = {"type": "object", "properties": {}}  # the answer is accepting or declining
UNKNOWN_PREVIEW = (
    "Forget the memories of this preview? Where it was a preview of an erasure, they are erased for good, which cannot "
    "be undone."
)


@dataclass(frozen=True, slots=True)
class Previewed:
    """What a confirm token stands for: the first of its memories, by id, and how many there are."""

    erases: bool
    first: tuple[str, ...]
    count: int
    until: float  # on the monotonic clock; the engine decides by its own


class Previews:
    """What was previewed, by the principal who was shown it and its token. Ids only, and only so many."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], Previewed] = OrderedDict()

    def note(self, caller: Caller, arguments: Mapping[str, Any], result: Result) -> None:
        """Remember what was previewed; let go of what was used up, or is too old."""
        who = caller.principal.name
        if result["forgotten"] and arguments.get("confirm") is not None:
            self._kept.pop((who, arguments["confirm"]), None)
        now = time.monotonic()
        if result["confirm"] is not None and result["confirm"] != arguments.get("confirm"):
            seen = [memory["id"] for memory in result["preview"]]
            erases = arguments.get("mode") == Mode.ERASE.value
            known = Previewed(erases, tuple(seen[:SHOWN_MEMORIES]), len(seen), now + KEPT_S)
            self._kept[who, result["confirm"]] = known
        while self._kept and (len(self._kept) > KEPT_PREVIEWS or next(iter(self._kept.values())).until < now):
            self._kept.popitem(last=False)

    def of(self, caller: Caller, token: str) -> Previewed | None:
        """What this caller was shown with `token`; None after a restart, and for tokens of others."""
        return self._kept.get((caller.principal.name, token))


def must_ask(tool: Tool, ctx: Context, arguments: Mapping[str, Any], caller: Caller, previews: Previews) -> bool:
    """Whether this call may erase, and its client can ask the person."""
    if tool is not FORGET or not _can_ask(ctx):
        return False
    request = request_of(arguments)
    if request.confirm is not None:
        known = previews.of(caller, request.confirm)
        return known is None or known.erases
    return request.mode is Mode.ERASE and bool(request.ids)


async def ask_before_erasing(
    ctx: Context, params: CallToolRequestParams, caller: Caller, previews: Previews
) -> Result | InputRequiredResult:
    """Preview, ask, and erase if the person agrees."""
    request = request_of(params.arguments or {})
    agreed = replace(request, confirmed=True) if request.ids else request
    memos = ctx.lifespan_context.memos
    if await ctx.lifespan_context.read(lambda: memos.answered_forget(agreed, caller)) is not None:
        return await _forget(ctx, agreed, caller)
    preview = await _forget(ctx, request, caller) if request.ids else None
    if preview is not None and preview["confirm"] is None:
        return preview  # nothing to erase, so nothing to ask about
    shown = _digest_of(preview)
    answer = (params.input_responses or {}).get(QUESTION)
    if is_modern(ctx) and params.request_state is not None and isinstance(answer, ElicitResult):
        return await _act(ctx, answer, agreed, caller, shown_then=params.request_state)
    question = ElicitRequestFormParams(
        message=_question_of(preview) if preview is not None else await _question_again(ctx, request, caller, previews),
        requested_schema=NO_FIELDS,
    )
    if is_modern(ctx):
        return InputRequiredResult(input_requests={QUESTION: ElicitRequest(params=question)}, request_state=shown)
    try:
        answer = await ctx.session.elicit_form(question.message, NO_FIELDS, related_request_id=ctx.request_id)
    except MCPError:
        logger.info("the client could not ask the person: nothing is erased")
        return preview or _nothing_done("could not be put: the client does not do what it says it can")
    return await _act(ctx, answer, agreed, caller, shown_then=shown)


async def _act(ctx: Context, answer: ElicitResult, agreed: Forget, caller: Caller, *, shown_then: str) -> Result:
    refused_in_form = any(value is False for value in (answer.content or {}).values())
    if answer.action != "accept" or refused_in_form:
        return _nothing_done("was dismissed" if answer.action == "cancel" else "was declined")
    if agreed.ids:
        now = await _forget(ctx, replace(agreed, confirmed=False), caller)
        if _digest_of(now) != shown_then:
            raise Conflict("what would be erased changed since the person was asked: call again; nothing was erased")
    return await _forget(ctx, agreed, caller)


async def _forget(ctx: Context, request: Forget, caller: Caller) -> Result:
    service = ctx.lifespan_context
    return rendered(await service.run(ctx, lambda progress: service.memos.forget(request, caller, progress)))


def _digest_of(preview: Result | None) -> str:
    """Stands for what the person is shown, and for what goes beyond the lines of the question."""
    return digest(sorted([seen["id"], seen["content"]] for seen in preview["preview"]) if preview is not None else [])


def _nothing_done(how: str) -> Result:
    return {
        "forgotten": [],
        "not_found": [],
        "preview": [],
        "confirm": None,
        "invalidated": {"kv": 0, "lora": 0},
        "receipt": None,
        "note": f"The question to the person {how}: nothing was erased, nothing was changed.",
    }


async def _question_again(ctx: Context, request: Forget, caller: Caller, previews: Previews) -> str:
    """About a preview of an earlier call. Its memories are read anew, with the rights of who asks now."""
    assert request.confirm is not None
    known = previews.of(caller, request.confirm)
    if known is None:
        return UNKNOWN_PREVIEW
    memos, found = ctx.lifespan_context.memos, []

    def look() -> None:
        for id in known.first:
            with contextlib.suppress(NotFound, NotAllowed):
                found.append((id, memos.memory(id, caller).memory.content))

    await ctx.lifespan_context.read(look)
    return _question(found, known.count)


def _question_of(preview: Result) -> str:
    seen = preview["preview"]
    return _question([(memory["id"], memory["content"]) for memory in seen[:SHOWN_MEMORIES]], len(seen))


def _question(first: Sequence[tuple[str, str]], count: int) -> str:
    lines = [f"Erase {plural(count, 'memory')} for good? This cannot be undone."]
    for id, content in first:
        flat = " ".join(content.split())
        lines.append(f"- {flat[:SHOWN_CHARS]}{'…' if len(flat) > SHOWN_CHARS else ''} ({id})")
    if count > len(first):
        lines.append(f"- and {count - len(first):,} more")
    return encodable("\n".join(lines))


def _can_ask(ctx: Context) -> bool:
    capabilities = ctx.session.client_capabilities
    elicitation = capabilities.elicitation if capabilities is not None else None
    if elicitation is None or (elicitation.form is None and elicitation.url is not None):
        return False
    return is_modern(ctx) or ctx.session.can_send_request
