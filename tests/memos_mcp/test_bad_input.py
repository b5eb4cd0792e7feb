"""Bad input of every kind: each gets one clear error, changes nothing, and leaves the server alive."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import MemosError
from engine.memos import MemOS
from engine.operations import Caller, Remember, silent
from memos_mcp.auth import create_token
from memos_mcp.tools import TOOLS
from memos_mcp.transports import HttpSettings
from tests.memos_mcp.serving import START, HandClock, connected, store, text_of
from tests.memos_mcp.web import BOTH, LATEST_LEGACY, MODERN, Reply, serving_http

KINDS_OF_BAD_INPUT = 200  # at least
MAX_MESSAGE_CHARS = 400
CLEAR = re.compile(r"(Invalid|TooLarge|NotFound|NotAllowed|Conflict|Expired): \S[^\n]{10,}")
LEAKS = re.compile(r"Traceback|pydantic|validation error|File \"|engine\.|memos_mcp|0x[0-9a-f]{6}", re.IGNORECASE)

NOT_STRINGS: list[Any] = [5, 5.5, True, ["x"], {"a": "b"}]
NOT_LISTS: list[Any] = ["x", 5, True, {"a": "b"}]
NOT_WHOLE: list[Any] = ["8", 8.5, True, [8], {"n": 8}]
NOT_BOOLEANS: list[Any] = ["yes", 1, 0, "", [True]]
BAD_TEXT = ["a\x00b", "\x1b[31mred", "bell\x07", "\x7f", "\x85", "\ud800", "x\udfffy", "", " \n\t "]
BAD_LINES = ["two\nlines", "tab\there", "\u2028", *BAD_TEXT]
BAD_TIMES: list[Any] = [
    *("", "yesterday", "2026-13-01", "2026-02-30", "2026-11-20T25:00:00", "20/11/2026", "Nov 20 2026", "1700000000"),
    *("0001-01-01", "9999-12-31T23:59:59-14:00", "2026-11-20T12:00:00+99:00", "２０２６-11-20T", "\ud800", "x" * 1_000),
    *(1_700_000_000, 1.5, True, ["2026-11-20"], {"year": 2026}),
]
BAD_CUBES = [*NOT_STRINGS, "", " ", "a/b", "../../etc", " edge", "a\x00", "a\nb", "\ud800", "x" * 65, "x" * 100_000]
BAD_IDS = [
    *NOT_LISTS,
    [],
    [5],
    [None],
    [[]],
    [""],
    ["../x"],
    ["a b"],
    ["m_\x00"],
    ["\ud800"],
    ["m" * 65],
    ["é"],
    ["m_1"] * 1_001,
]

Case = tuple[str, dict[str, Any]]


def remember_cases() -> Iterator[Case]:
    yield "remember", {}
    yield "remember", {"content": None}
    yield "remember", {"content": "x", "messages": [{"role": "user", "content": "x"}]}
    for value in (*NOT_STRINGS, *BAD_TEXT, "x" * 200_001, "💥" * 1_000_000):
        yield "remember", {"content": value}
    good = {"role": "user", "content": "x"}
    for messages in (
        *(*NOT_LISTS, [], ["x"], [5], [None], [[]], [{}], [{"role": "user"}], [{"content": "x"}]),
        *([{**good, "role": 5}], [{**good, "content": 5}], [{**good, "content": ""}], [{**good, "role": "a\nb"}]),
        *(
            [{**good, "at": "noon"}],
            [{**good, "name": "\x00"}],
            [{**good, "mood": "x"}],
            [good, {**good, "content": "\x00"}],
        ),
        *([{**good, "content": "x" * 1_000_001}], [good] * 10_001),
    ):
        yield "remember", {"messages": messages}
    kept = {"content": "x"}
    for value in BAD_CUBES:
        yield "remember", {**kept, "cube": value}
    for value in ("poem", "Fact", "", 5, ["fact"], "fact\x00", "\ud800"):
        yield "remember", {**kept, "kind": value}
    for value in (*NOT_LISTS, [5], [""], ["a\nb"], ["\x00"], ["x" * 129], ["x"] * 65, [["x"]]):
        yield "remember", {**kept, "tags": value}
    for value in BAD_TIMES:
        yield "remember", {**kept, "occurred_at": value}
    for value in (0, -1, -0.5, "3", True, [3], 1e300, 36_526):
        yield "remember", {**kept, "expires_in_days": value}
    for value in (*NOT_STRINGS, *BAD_LINES, "x" * 2_049):
        yield "remember", {**kept, "source": value}
    for value in (*BAD_IDS, ["m_unknown"]):
        yield "remember", {**kept, "supersedes": value}
    for name in ("Content", "text", "", "__class__", "\x00", "\ud800", "x" * 10_000, "messages[0]"):
        yield "remember", {**kept, name: "x"}


def recall_cases() -> Iterator[Case]:
    yield "recall", {}
    for value in (*NOT_STRINGS, *BAD_TEXT, "x" * 8_001):
        yield "recall", {"query": value}
    asked = {"query": "x"}
    for value in (*NOT_LISTS, [], [5], [""], ["a/b"], ["nowhere"], ["default", "nowhere"], ["x"] * 101):
        yield "recall", {**asked, "cubes": value}
    for value in (*NOT_WHOLE, 0, -1, 101, 10**40):
        yield "recall", {**asked, "limit": value}
    for value in (*NOT_WHOLE, 0, 49, 100_001):
        yield "recall", {**asked, "max_tokens": value}
    for value in (*NOT_LISTS, ["poem"], [5], ["fact"] * 7):
        yield "recall", {**asked, "kinds": value}
    for value in (*NOT_LISTS, [5], [""], ["x" * 129]):
        yield "recall", {**asked, "tags": value}
    for name in ("after", "before", "as_of"):
        for time in BAD_TIMES:
            yield "recall", {**asked, name: time}
    yield "recall", {**asked, "after": "2026-02-01", "before": "2026-01-01"}
    yield "recall", {**asked, "after": "2026-01-01", "before": "2026-01-01"}
    for value in NOT_BOOLEANS:
        yield "recall", {**asked, "include_archived": value}
    for value in ("verbose", "", 5, ["concise"]):
        yield "recall", {**asked, "response_format": value}
    yield "recall", {**asked, "top_k": 3}


def forget_cases() -> Iterator[Case]:
    yield "forget", {}
    yield "forget", {"mode": "erase"}
    yield "forget", {"cube": "default"}
    yield "forget", {"ids": ["m_1"], "query": "x"}
    yield "forget", {"ids": ["m_1"], "confirm": "x"}
    yield "forget", {"ids": ["m_1"], "cube": "default"}
    for value in (*BAD_IDS, ["m_unknown"], ["m_unknown", "m_other"]):
        yield "forget", {"ids": value}
        yield "forget", {"ids": value, "mode": "erase"}
    for value in (*NOT_STRINGS, *BAD_TEXT, "x" * 8_001):
        yield "forget", {"query": value}
    for value in (*NOT_STRINGS, *BAD_LINES, "c_guess", "x" * 513):
        yield "forget", {"confirm": value}
    for value in (*BAD_CUBES, "nowhere"):
        yield "forget", {"query": "x", "cube": value}
    for value in ("delete", "ERASE", "", 5, ["erase"]):
        yield "forget", {"ids": ["m_unknown"], "mode": value}
    for value in (*NOT_STRINGS, "\x00", "", "x" * 2_049):
        yield "forget", {"ids": ["m_unknown"], "reason": value}
    yield "forget", {"ids": ["m_unknown"], "confirmed": True}


def fuse_cases() -> Iterator[Case]:
    yield "fuse", {}
    yield "fuse", {"content": "x"}
    yield "fuse", {"ids": ["m_1", "m_2"], "cube": "default"}
    yield "fuse", {"cube": "default", "content": "x"}
    yield "fuse", {"cubes": ["a", "b"], "into": "c"}
    for value in (*BAD_IDS, ["m_1"], ["m_1", "m_1"], ["m_1", "m_unknown"], [f"m_{n}" for n in range(101)]):
        yield "fuse", {"ids": value}
    for value in (*BAD_CUBES, "nowhere"):
        yield "fuse", {"cube": value}
    for value in (*NOT_STRINGS, *BAD_TEXT):
        yield "fuse", {"ids": ["m_1", "m_2"], "content": value}
    for value in NOT_BOOLEANS:
        yield "fuse", {"cube": "default", "dry_run": value}


CASES = [*remember_cases(), *recall_cases(), *forget_cases(), *fuse_cases()]


def complaint(case: Case, text: str) -> str | None:
    """What is wrong with the answer to a bad call; None when it is one clear error."""
    if not CLEAR.match(text):
        return f"{shortened(case)}: no clear error: {text[:200]!r}"
    if LEAKS.search(text) or len(text.splitlines()[0]) > MAX_MESSAGE_CHARS:
        return f"{shortened(case)}: not fit for a client: {text[:600]!r}"
    return None


def shortened(case: Case) -> str:
    return repr(case)[:120]


def revision(memos: MemOS) -> int:
    return memos.status(Caller()).revision


def test_there_are_enough_kinds_of_bad_input() -> None:
    assert len({repr(case) for case in CASES}) == len(CASES) >= KINDS_OF_BAD_INPUT


@pytest.mark.anyio
async def test_every_bad_call_gets_one_clear_error_and_changes_nothing(memos: MemOS) -> None:
    memos.remember(Remember(content="The well is deep."), Caller())
    before, wrong = revision(memos), []
    async with connected(memos) as client:
        for case in CASES:
            with anyio.fail_after(30):
                result = await client.call_tool(*case)
            text = text_of(result)
            wrong += [f"{shortened(case)}: taken: {text[:200]}"] if not result.is_error else []
            wrong += [found] if (found := complaint(case, text)) else []
            wrong += [f"{shortened(case)}: the store changed"] if revision(memos) != before else []
            before = revision(memos)
        assert not wrong, f"{len(wrong)} of {len(CASES)}:\n" + "\n".join(wrong[:40])
        alive = await client.call_tool("recall", {"query": "How deep is the well?"})
    assert len(alive.structured_content["memories"]) == 1


# --- below the tools: what is no proper request at all ----------------------------------------------------------


def call(arguments: str, name: str = '"recall"', more: str = "") -> bytes:
    """A `tools/call` of the 2026 era, spelled by hand so that it can be wrong anywhere."""
    meta = json.dumps(
        {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
    )
    params = f'{{"name":{name},"arguments":{arguments},"_meta":{meta}{more}}}'
    return f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}'.encode()


MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "not JSON": b"remember this",
    "half a message": b'{"jsonrpc":"2.0","id":1,',
    "not UTF-8": b'{"jsonrpc":"2.0","id":1,"method":"\xff\xfe"}',
    "NULs": b"\x00" * 100,
    "a number": b"5",
    "a string": b'"recall"',
    "null": b"null",
    "an empty array": b"[]",
    "a batch": b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]',
    "an empty object": b"{}",
    "another version of JSON-RPC": b'{"jsonrpc":"1.0","id":1,"method":"ping"}',
    "an id that is an object": b'{"jsonrpc":"2.0","id":{},"method":"tools/list"}',
    "a method that is a number": b'{"jsonrpc":"2.0","id":1,"method":5}',
    "params that are a string": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":"x"}',
    "arguments that are an array": call("[]"),
    "arguments that are a string": call('"query"'),
    "a name that is a number": call("{}", name="5"),
    "a tool that does not exist": call("{}", name='"dream"'),
    "nesting without end": call('{"query":' + "[" * 100_000 + "]" * 100_000 + "}"),
    "a number of 5,000 digits": call('{"query":"x","limit":' + "9" * 5_000 + "}"),
    "a response instead of a request": b'{"jsonrpc":"2.0","id":1,"result":{}}',
}
SENT_AS_TOOL_CALLS: dict[str, bytes] = {
    "an escaped lone surrogate": call('{"query":"\\ud800"}'),
    "an escaped NUL": call('{"query":"\\u0000"}'),
    "an argument named by a lone surrogate": call('{"query":"x","\\udfff":1}'),
    "NaN": call('{"query":"x","limit":NaN}'),
    "a span without end": call('{"content":"x","expires_in_days":Infinity}', name='"remember"'),
    "an id of surrogates": call('{"ids":["\\ud83d"]}', name='"forget"'),
}


def headers_of(era: str, name: str = "recall") -> dict[str, str]:
    usual = {"Content_Type": "application/json", "Accept": BOTH}
    if era == LATEST_LEGACY:
        return usual
    return {**usual, "MCP_Protocol_Version": MODERN, "Mcp_Method": "tools/call", "Mcp_Name": name}


def named(body: bytes) -> str:
    return next(name for name in TOOLS if f'"{name}"'.encode() in body)


def refused(reply: Reply) -> bool:
    """Whether the reply is one error of HTTP or of JSON-RPC that tells nothing of what is inside."""
    said = reply.text
    is_error = reply.status >= 400 or "error" in (reply.message if said else {})
    return is_error and reply.status < 500 and not LEAKS.search(said)


@pytest.mark.parametrize("era", [LATEST_LEGACY, MODERN])
def test_malformed_messages_are_protocol_errors_over_http(memos: MemOS, tmp_path: Path, era: str) -> None:
    before = revision(memos)
    with serving_http(memos, tmp_path / "data") as web:
        wrong = {}
        for what, body in MALFORMED.items():
            reply = web.send("POST", "/mcp", body, **headers_of(era))
            if not refused(reply):
                wrong[what] = reply
        assert wrong == {}
        for what, body in SENT_AS_TOOL_CALLS.items():
            reply = web.send("POST", "/mcp", body, **headers_of(era, named(body)))
            assert refused(reply) or CLEAR.match(reply.message["result"]["content"][0]["text"]), (what, reply)
        assert web.modern("tools/list").status == 200
    assert revision(memos) == before


def test_wrong_ways_to_come_in_are_refused_over_http(memos: MemOS, tmp_path: Path, clock: HandClock) -> None:
    folder = tmp_path / "data"
    expired = create_token(folder, "old", START, expires_in_days=1)
    clock.pass_by(days=2)
    good, body = headers_of(MODERN), call('{"query":"x"}')
    attempts: dict[str, tuple[str, str, bytes | None, dict[str, str], int]] = {
        "GET": ("GET", "/mcp", None, {"MCP_Protocol_Version": MODERN}, 405),
        "PUT": ("PUT", "/mcp", body, good, 405),
        "no content type": ("POST", "/mcp", body, {**good, "Content_Type": "text/plain"}, 400),
        "nothing accepted": ("POST", "/mcp", body, {**good, "Accept": "text/html"}, 406),
        "a version of the future": ("POST", "/mcp", body, {**good, "MCP_Protocol_Version": "2999-01-01"}, 400),
        "a header against the body": ("POST", "/mcp", body, {**good, "Mcp_Method": "tools/list"}, 400),
        "a session that never was": ("POST", "/mcp", body, {**headers_of(LATEST_LEGACY), "Mcp_Session_Id": "x"}, 404),
        "a strange host": ("POST", "/mcp", body, {**good, "Host": "evil.example"}, 421),
        "a strange origin": ("POST", "/mcp", body, {**good, "Origin": "http://evil.example"}, 403),
        "no token's scheme": ("POST", "/mcp", body, {**good, "Authorization": "Basic eDp5"}, 401),
        "a wrong token": ("POST", "/mcp", body, {**good, "Authorization": "Bearer wrong"}, 401),
        "an expired token": ("POST", "/mcp", body, {**good, "Authorization": f"Bearer {expired}"}, 401),
        "a body without end": ("POST", "/mcp", b"x" * 70_000, good, 413),
        "messages of no session": ("POST", "/messages/", body, good, 400),
        "messages of a wrong session": ("POST", "/messages/?session_id=x", body, good, 400),
        "messages of an unknown session": ("POST", "/messages/?session_id=" + "0" * 32, body, good, 404),
        "no such path": ("POST", "/tools", body, good, 404),
    }
    with serving_http(memos, folder, HttpSettings(port=0, max_body_bytes=65_536), clock) as web:
        for what, (method, path, sent, headers, status) in attempts.items():
            reply = web.send(method, path, sent, **headers)
            assert reply.status == status, (what, reply)
            assert not LEAKS.search(reply.text), (what, reply)
        assert web.modern("tools/list").status == 200


def test_a_protocol_error_names_what_is_wrong(memos: MemOS, tmp_path: Path) -> None:
    with serving_http(memos, tmp_path / "data") as web:
        reply = web.send("POST", "/mcp", MALFORMED["arguments that are an array"], **headers_of(MODERN))
    message = reply.message["error"]["message"]
    assert message.startswith("Invalid request parameters of tools/call: ")
    assert "arguments' must be an object, not an array" in message


# --- anything at all --------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(), max_size=40) | st.sampled_from([*BAD_LINES, "default", "m_1", "2026-05-01"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def calls(draw: st.DrawFn) -> Case:
    """A tool with arguments some of which are its own and some of which hold what they should."""
    tool = TOOLS[draw(st.sampled_from(sorted(TOOLS)))]
    names = list(tool.input_model.model_fields)
    chosen = draw(st.lists(st.sampled_from(names) | TEXT, max_size=4, unique=True))
    likely = {
        "query": TEXT,
        "content": TEXT,
        "ids": st.lists(TEXT, max_size=3),
        "cubes": st.lists(TEXT, max_size=2),
        "tags": st.lists(TEXT, max_size=2),
        "limit": st.integers(-1, 101),
        "kind": st.sampled_from(["fact", "poem"]),
        "messages": st.lists(st.fixed_dictionaries({"role": TEXT, "content": TEXT}), max_size=2),
    }
    return tool.name, {name: draw(likely.get(name, JSON) | JSON) for name in chosen}


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemOS]:
    with store(tmp_path_factory.mktemp("fuzz") / "data") as opened:
        opened.remember(Remember(content="The well is deep."), Caller())
        yield opened


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=calls())
def test_any_arguments_give_a_complete_result_or_one_clear_error(fuzzed: MemOS, case: Case) -> None:
    name, arguments = case
    tool, before = TOOLS[name], revision(fuzzed)
    refusal, result = None, {}
    try:
        result = tool.run(fuzzed, arguments, Caller(), silent)
    except MemosError as error:
        refusal = f"{error.code}: {error}"
    if refusal is not None:
        assert complaint(case, refusal) is None
        assert revision(fuzzed) == before
    else:
        assert set(tool.output_schema["properties"]) <= set(result)
        json.dumps(result).encode()
        assert tool.text(result).encode()
