"""From the JSON of OpenAI's requests to what the engine is asked: parsed once, here, and trusted after.

What OpenAI's API has and this one does not is refused by its name and never ignored; what changes nothing (`user`,
`metadata`) is taken and left aside. An explicit null is the same as absence. It knows no HTTP and asks no engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from engine.model_operations import (
    MAX_CHAT_TURNS,
    MAX_NEW_TOKENS,
    MAX_STOP_CHARS,
    MAX_STOPS,
    Chat,
    ChatTurn,
    MemoryUse,
    Sampling,
    Tier,
)
from engine.operations import MAX_CONTENT_CHARS, RECALL_LIMIT
from engine.recalling import MAX_LIMIT
from memos_mcp.openai_api.errors import Refused
from memos_mcp.tools.recall import MAX_CUBES
from memos_mcp.wire import NOT_IN_PROSE, Arguments, CubeName, Whole, first_complaint, shown, unique

MAX_INPUTS = 2_048
MAX_INPUT_CHARS = 2_000_000  # of all inputs together
SYSTEM_ROLES = ("system", "developer")
ROLES = (*SYSTEM_ROLES, "user", "assistant")
HARMLESS = frozenset(
    {
        *("user", "metadata", "store", "service_tier", "safety_identifier"),
        *("prompt_cache_key", "prompt_cache_retention", "parallel_tool_calls"),
    }
)
NO_TOOLS = "this endpoint runs none; tools are what MCP is for"
# What is refused by its name: the values that ask for nothing, and why no other is taken.
UNSUPPORTED: Mapping[str, tuple[Sequence[object], str]] = {
    "tools": (([],), NO_TOOLS),
    "tool_choice": (("none", "auto"), NO_TOOLS),
    "functions": (([],), NO_TOOLS),
    "function_call": (("none", "auto"), NO_TOOLS),
    "response_format": (({"type": "text"},), "replies are plain text: ask for a format in words"),
    "n": ((1,), "one reply is made for each request: send it again for another"),
    "logprobs": ((False,), "probabilities are not given"),
    "top_logprobs": ((0,), "probabilities are not given"),
    "logit_bias": (({},), "tokens cannot be favoured one by one"),
    "modalities": ((["text"],), "text is all there is"),
    "audio": ((), "text is all there is"),
    "prediction": ((), "nothing is predicted here"),
    "web_search_options": ((), "nothing is searched outside memory"),
    "reasoning_effort": (("none",), "how long a model thinks is its own affair"),
    "verbosity": (("medium",), "ask for short or long replies in words"),
}
IN_MESSAGES = frozenset({"role", "content", "name", "refusal", "annotations"})
PARTS = {"text": "text", "refusal": "refusal"}  # types of parts, and where their text stands
NO_TOOL_TURNS = "turns of tools cannot be told to this model: tell it what came of them as the user"

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat completion that is asked for. `model` is the name as the client wrote it."""

    model: str
    chat: Chat
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    model: str
    texts: tuple[str, ...]
    base64: bool
    dimensions: int | None


def _several(value: object) -> object:
    return [value] if isinstance(value, str) else value


Name = Annotated[str, Field(min_length=1, max_length=4_096)]
NewTokens = Annotated[Whole, Field(ge=1, le=MAX_NEW_TOKENS)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]


class StreamArguments(Arguments):
    include_usage: bool = False
    include_obfuscation: bool = False  # lengths of chunks are not hidden on one's own machine


class MemoryArguments(Arguments):
    cube: CubeName | None = None
    cubes: Annotated[list[CubeName], Field(min_length=1, max_length=MAX_CUBES)] | None = None
    tiers: Annotated[list[Literal["text", "kv", "lora"]], Field(min_length=1)] | None = None
    limit: Annotated[Whole, Field(ge=1, le=MAX_LIMIT)] = RECALL_LIMIT


class ChatArguments(Arguments):
    model: Name
    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_CHAT_TURNS)]
    stream: bool = False
    stream_options: StreamArguments | None = None
    max_tokens: NewTokens | None = None
    max_completion_tokens: NewTokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[Whole, Field(ge=0)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[Whole, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Annotated[list[Stop], BeforeValidator(_several), Field(max_length=MAX_STOPS)] | None = None
    memory: MemoryArguments | None = None


class EmbeddingArguments(Arguments):
    model: Name
    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[Whole, Field(ge=1)] | None = None
    user: str | None = None


SAMPLING = ("temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "seed")


def chat_request(body: Mapping[str, Any]) -> ChatRequest:
    """What a body of `/v1/chat/completions` asks for.

    Raises:
        Refused: with the parameter that is wrong, or not supported.
    """
    present = {name: value for name, value in body.items() if value is not None}
    for name, (neutral, why) in UNSUPPORTED.items():
        if name in present and not _is_one_of(present.pop(name), neutral):
            raise _unsupported(name, why)
    asked = _read(ChatArguments, {name: value for name, value in present.items() if name not in HARMLESS})
    if asked.stream_options is not None and not asked.stream:
        raise Refused("'stream_options' is for streams: set 'stream' to true, or leave it out", param="stream_options")
    sampling = {name: getattr(asked, name) for name in SAMPLING if getattr(asked, name) is not None}
    most = asked.max_completion_tokens or asked.max_tokens
    if most is not None:
        sampling["max_tokens"] = most
    return ChatRequest(
        model=asked.model,
        chat=Chat(
            turns=_turns(asked.messages),
            memory=None if asked.memory is None else _memory(asked.memory),
            sampling=Sampling(**sampling, stop=tuple(asked.stop or ())),
        ),
        stream=asked.stream,
        include_usage=asked.stream_options is not None and asked.stream_options.include_usage,
    )


def embeddings_request(body: Mapping[str, Any]) -> EmbeddingsRequest:
    """What a body of `/v1/embeddings` asks for.

    Raises:
        Refused: with the parameter that is wrong, or not supported.
    """
    asked = _read(EmbeddingArguments, {name: value for name, value in body.items() if value is not None})
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refused("'input' must be a string or an array of strings: tokens are not taken", param="input")
    if not 0 < len(texts) <= MAX_INPUTS:
        raise Refused(f"'input' has {len(texts):,} texts: send 1 to {MAX_INPUTS:,} at once", param="input")
    if sum(map(len, texts)) > MAX_INPUT_CHARS or any(len(text) > MAX_CONTENT_CHARS for text in texts):
        raise Refused(
            f"'input' is too long: at most {MAX_CONTENT_CHARS:,} characters in a text, {MAX_INPUT_CHARS:,} in all",
            param="input",
        )
    for place, text in enumerate(texts):
        if not text.strip():
            raise Refused(f"'input[{place}]' is empty: send some text", param="input")
        _check(text, f"input[{place}]")
    return EmbeddingsRequest(asked.model, tuple(texts), asked.encoding_format == "base64", asked.dimensions)


# --- the parts ----------------------------------------------------------------------------------------------------


def _read(model: type[ModelT], present: Mapping[str, Any]) -> ModelT:
    for name in present:
        if name not in model.model_fields:
            known = ", ".join(model.model_fields)
            raise Refused(f"Unrecognized request argument supplied: {shown(name)}: use {known}", param=shown(name))
    try:
        return model.model_validate({name: _without_nulls(value) for name, value in present.items()})
    except ValidationError as error:
        complaint = first_complaint(error)
        raise Refused(complaint, param=complaint[1 : complaint.index("'", 1)]) from None


def _without_nulls(value: Any) -> Any:
    return {name: field for name, field in value.items() if field is not None} if isinstance(value, dict) else value


def _is_one_of(value: object, neutral: Sequence[object]) -> bool:
    """Whether it is one of these values, where true is not 1 and false not 0."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral)


def _unsupported(name: str, why: str) -> Refused:
    return Refused(f"'{name}' is not supported here: {why}", param=name, code="unsupported_parameter")


def _memory(asked: MemoryArguments) -> MemoryUse:
    if asked.cube is not None and asked.cubes is not None:
        raise Refused("'memory' names cube and cubes: use one of them", param="memory.cubes")
    cubes = (asked.cube,) if asked.cube is not None else unique(asked.cubes) if asked.cubes is not None else None
    tiers = tuple(Tier) if asked.tiers is None else tuple(Tier(tier) for tier in unique(asked.tiers))
    return MemoryUse(cubes=cubes, tiers=tiers, limit=asked.limit)


def _turns(messages: Sequence[Mapping[str, Any]]) -> tuple[ChatTurn, ...]:
    """The messages as turns. System messages at the beginning are one: most chat templates know no more."""
    turns = [_turn(message, f"messages[{place}]") for place, message in enumerate(messages)]
    leading = 0
    while leading < len(turns) and turns[leading].role == "system":
        leading += 1
    system = "\n\n".join(turn.content for turn in turns[:leading] if turn.content)
    return (*([ChatTurn("system", system)] if leading else []), *turns[leading:])


def _turn(message: Mapping[str, Any], place: str) -> ChatTurn:
    said = {name: value for name, value in message.items() if value is not None and value != []}
    role = said.get("role")
    if role in ("tool", "function") or said.keys() & {"tool_calls", "function_call", "tool_call_id"}:
        raise Refused(f"'{place}': {NO_TOOL_TURNS}", param=place, code="unsupported_parameter")
    if role not in ROLES:
        wrong = "is required" if role is None else f"is {shown(role)!r}"
        raise Refused(f"'{place}.role' {wrong}: use one of {', '.join(ROLES)}", param=f"{place}.role")
    for name in said:
        if name not in IN_MESSAGES:
            known = ", ".join(sorted(IN_MESSAGES))
            raise Refused(f"'{place}.{shown(name)}' is not supported here: use {known}", param=f"{place}.{shown(name)}")
    content = said.get("content", said.get("refusal"))
    if content is None and role != "assistant" and message.get("content") != []:
        raise Refused(f"'{place}.content' is required: send some text", param=f"{place}.content")
    return ChatTurn("system" if role in SYSTEM_ROLES else str(role), _text(content, f"{place}.content"))


def _text(content: object, place: str) -> str:
    """The text of a message: a string, or parts, which stand on lines of their own."""
    if content is None:
        return ""
    if isinstance(content, list):
        return "\n".join(_part(part, f"{place}[{number}]") for number, part in enumerate(content))
    if not isinstance(content, str):
        raise Refused(f"'{place}' must be a string or an array of parts", param=place)
    return _check(content, place)


def _part(part: object, place: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        raise Refused(f'\'{place}\' must be a part such as {{"type": "text", "text": "…"}}', param=place)
    if kind not in PARTS:
        raise Refused(
            f"'{place}' is of the type {shown(kind)!r}, which is not supported here: this model reads text only",
            param=place,
            code="unsupported_parameter",
        )
    text = part.get(PARTS[kind])
    if not isinstance(text, str):
        raise Refused(f"'{place}.{PARTS[kind]}' must be a string", param=f"{place}.{PARTS[kind]}")
    return _check(text, place)


def _check(text: str, place: str) -> str:
    if found := NOT_IN_PROSE.search(text):
        raise Refused(
            f"'{place}' holds the control character U+{ord(found[0]):04X} at position {found.start()}: remove it",
            param=place,
        )
    return text
