"""What the bridge remembers of a conversation, in every order of events; no process and no socket takes part."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import Busy
from memos_mcp.bridge import LineSplitter
from memos_mcp.conversation import MAX_DEATHS, REPLAY, REUSE, STOPPED, Conversation
from memos_mcp.envelope import Malformed


def line(**fields: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **fields}).encode()


def request(identifier: Any, method: str = "tools/call", **params: Any) -> bytes:
    return line(id=identifier, method=method, params=params)


def answer(identifier: Any, result: Any = None) -> bytes:
    """As the daemon writes it."""
    return json.dumps({"jsonrpc": "2.0", "id": identifier, "result": result or {}}, separators=(",", ":")).encode()


def parsed(lines: list[bytes]) -> list[Any]:
    return [json.loads(text) for text in lines]


INITIALIZE = request(0, "initialize", protocolVersion="2025-11-25")
INITIALIZED = line(method="notifications/initialized")


def shaken() -> Conversation:
    """A conversation whose handshake is done."""
    conversation = Conversation()
    conversation.replay()
    conversation.from_client(INITIALIZE)
    conversation.from_daemon(answer(0))
    conversation.from_client(INITIALIZED)
    return conversation


def test_lines_go_through_unchanged() -> None:
    conversation = shaken()
    asked = b'{ "id": 7,"jsonrpc":"2.0",  "method":"tools/call","params":{"x":"\\ud800 \xc3\xa9"}}'
    assert conversation.from_client(asked).send == [asked]
    replied = answer(7, {"text": "é"})
    assert conversation.from_daemon(replied) == [replied]


def test_a_new_daemon_gets_the_handshake_and_what_is_in_flight_and_the_client_sees_one_answer() -> None:
    conversation = shaken()
    conversation.from_client(request(1))
    conversation.from_client(request("1"))
    conversation.from_daemon(answer(1))
    conversation.lost()
    first, second, third = conversation.replay()
    assert json.loads(first)["method"] == "initialize"
    assert json.loads(first)["id"] == f"{REPLAY}1"
    assert second == INITIALIZED
    assert third == request("1")
    assert conversation.from_daemon(answer(f"{REPLAY}1")) == []
    assert conversation.from_daemon(answer("1")) == [answer("1")]
    assert conversation.from_daemon(answer("1")) == []
    assert conversation.waiting == 0


def test_a_handshake_in_flight_is_sent_again_and_its_answer_reaches_the_client() -> None:
    conversation = Conversation()
    conversation.from_client(INITIALIZE)
    conversation.from_client(INITIALIZED)  # a client that does not wait
    conversation.from_client(request(1))
    assert conversation.replay() == [INITIALIZE, INITIALIZED, request(1)]
    conversation.lost()
    assert conversation.replay() == [INITIALIZE, INITIALIZED, request(1)]
    assert conversation.from_daemon(answer(0)) == [answer(0)]


def test_standing_subscriptions_are_made_again_until_they_are_ended() -> None:
    conversation = shaken()
    for identifier, uri in ((1, "memos://a"), (2, "memos://b")):
        conversation.from_client(request(identifier, "resources/subscribe", uri=uri))
        conversation.from_daemon(answer(identifier))
    conversation.from_client(request(3, "resources/unsubscribe", uri="memos://a"))
    conversation.from_daemon(answer(3))
    conversation.lost()
    assert conversation.needs_daemon
    subscribed = [m for m in parsed(conversation.replay()) if m["method"] == "resources/subscribe"]
    assert [m["params"]["uri"] for m in subscribed] == ["memos://b"]
    assert conversation.from_daemon(answer(subscribed[0]["id"])) == []


def test_a_cancelled_request_is_not_sent_again_and_a_crossing_answer_is_dropped() -> None:
    conversation = shaken()
    conversation.from_client(request(5))
    cancel = line(method="notifications/cancelled", params={"requestId": 5})
    assert conversation.from_client(cancel).send == [cancel]
    assert conversation.waiting == 0
    assert conversation.from_daemon(answer(5)) == []
    conversation.lost()
    assert request(5) not in conversation.replay()


def test_without_a_daemon_each_waiting_request_gets_one_retryable_error() -> None:
    conversation = shaken()
    conversation.from_client(request(1))
    conversation.from_client(request("two"))
    errors = parsed(conversation.give_up(Busy("nobody is there")))
    assert [e["id"] for e in errors] == [1, "two"]
    assert all(e["error"]["data"] == {"code": "Busy", "retryable": True} for e in errors)
    assert conversation.give_up(Busy("again")) == []
    assert len(conversation.replay()) == 2  # the handshake alone


def test_a_request_that_no_daemon_survives_is_given_up() -> None:
    conversation = shaken()
    conversation.from_client(request(1))
    for _ in range(MAX_DEATHS - 1):
        assert conversation.lost() == []
        assert request(1) in conversation.replay()
    (refused,) = parsed(conversation.lost())
    assert refused["id"] == 1
    assert request(1) not in conversation.replay()


def test_an_id_that_is_used_again_is_another_operation() -> None:
    conversation = shaken()
    for use in range(3):
        send = conversation.from_client(request("a", n=use)).send
        conversation.from_daemon(answer("a"))
        if use == 0:
            assert send == [request("a", n=0)]
        else:
            note = json.loads(send[0])
            assert (note["method"], note["params"]) == (REUSE, {"key": '"a"', "use": use})
            assert send[1] == request("a", n=use)
    conversation.from_client(request(9))
    assert len(conversation.from_client(request(3)).send) == 2  # lower than one before: perhaps used
    conversation.lost()
    assert [m["method"] for m in parsed(conversation.replay())[2:]] == ["tools/call", REUSE, "tools/call"]


def test_the_answers_to_a_batch_come_as_one() -> None:
    conversation = shaken()
    batch = b"[%b,%b,%b,7]" % (request(1), INITIALIZED, request(2))
    step = conversation.from_client(batch)
    assert [m["method"] for m in parsed(step.send)] == ["tools/call", "notifications/initialized", "tools/call"]
    assert step.answer == []
    assert conversation.from_daemon(answer(2)) == []
    (whole,) = conversation.from_daemon(answer(1))
    assert [m["id"] for m in json.loads(whole)] == [None, 2, 1]


def test_questions_of_a_later_daemon_get_ids_of_their_own() -> None:
    conversation = shaken()
    question = line(id=0, method="elicitation/create", params={})
    assert conversation.from_daemon(question) == [question]
    conversation.lost()
    conversation.replay()
    assert conversation.from_client(line(id=0, result={})).send == []  # who asked is gone
    (renamed,) = parsed(conversation.from_daemon(question))
    assert renamed["id"] != 0
    (reply,) = parsed(conversation.from_client(line(id=renamed["id"], result={"action": "accept"})).send)
    assert reply == {"jsonrpc": "2.0", "id": 0, "result": {"action": "accept"}}


def test_a_daemon_that_was_stopped_on_purpose_is_not_missed_before_there_is_work() -> None:
    conversation = shaken()
    conversation.from_client(request(1, "resources/subscribe", uri="memos://a"))
    conversation.from_daemon(answer(1))
    assert conversation.from_daemon(line(method=STOPPED)) == []
    assert not conversation.needs_daemon
    conversation.from_client(request(2))
    assert conversation.needs_daemon


@pytest.mark.parametrize(
    ("sent", "identifier"),
    [({}, None), ({"id": {"a": 1}, "method": "tools/list"}, None), ({"id": 7, "method": 5}, 7), ({"id": 8}, 8)],
)
def test_an_object_that_neither_asks_nor_answers_gets_an_error_at_once(
    sent: dict[str, Any], identifier: int | None
) -> None:
    step = shaken().from_client(line(**sent))
    assert step.send == []
    (refused,) = parsed(step.answer)
    assert (refused["id"], refused["error"]["code"]) == (identifier, -32600)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b"[" * 100_000, -32700),
        (b"[]", -32600),
        (b"7", -32600),
        (b'{"id":' + b"9" * 5000 + b"}", -32700),
    ],
)
def test_what_is_no_message_gets_a_clear_error(sent: bytes, code: int) -> None:
    step = Conversation().from_client(sent)
    assert step.send == []
    assert [e["error"]["code"] for e in parsed(step.answer)] == [code]


@given(st.lists(st.binary(max_size=40).filter(lambda b: b"\n" not in b), max_size=20), st.integers(1, 30))
def test_lines_are_cut_the_same_however_they_arrive(lines: list[bytes], size: int) -> None:
    stream = b"\n".join(lines)
    splitter = LineSplitter()
    got = [line for i in range(0, len(stream), size) for line in splitter.feed(stream[i : i + size])]
    got.extend(splitter.rest())
    assert got == [text.strip() for text in lines if text.strip()]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (b'{"jsonrpc":"2.0","id":5,"method":"m","params":"%b"}', "5"),
        (b'{"jsonrpc":"2.0","method":"m","params":"%b","id":"x-1"}', '"x-1"'),
        (b'{"params":"%b","id":3,"method":"m"}', "null"),
    ],
)
def test_a_line_over_the_bound_is_refused_under_its_id_and_the_next_one_is_read(text: bytes, key: str) -> None:
    splitter = LineSplitter(limit_bytes=100_000)
    stream = text % (b"x" * 300_000) + b"\n{}\n"
    got = [line for i in range(0, len(stream), 65536) for line in splitter.feed(stream[i : i + 65536])]
    assert isinstance(got[0], Malformed)
    assert (got[0].code, got[0].key) == (-32600, key)
    assert got[1:] == [b"{}"]
