"""`memos-mcp chat`: in a terminal, in a pipe, for a program; with a model by URL, which a test makes say anything."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.memos_mcp.model_server import ModelServer, model_server
from tests.memos_mcp.processes import LONG_S, environment, until
from tests.memos_mcp.shell import COMMAND, Shell, shell
from tests.memos_mcp.terminals import CTRL_C, CTRL_D, Terminal, terminal

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e"
FACT = "The harbour master is called Ottilie."
QUESTION = "Who is the harbour master?"


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


@pytest.fixture(scope="module")
def sh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with shell(tmp_path_factory.mktemp("chat") / "data") as opened:
        opened.remember(FACT, "--cube", "town")
        yield opened


@pytest.fixture
def talk(sh: Shell, server: ModelServer) -> Iterator[Terminal]:
    """A chat with the cube `town`, waiting for its first turn."""
    with terminal(sh.data, "chat", "--model", server.url, "--cube", "town") as opened:
        opened.until("> ")
        yield opened


def events(out: str) -> list[Any]:
    return [json.loads(line) for line in out.splitlines()]


def contents(sh: Shell, query: str, cube: str) -> list[str]:
    return [memory["content"] for memory in sh.good("recall", query, "--cube", cube)["memories"]]


# --- a pipe and a program -------------------------------------------------------------------------------------------


def test_each_line_of_a_pipe_is_a_turn_and_only_replies_come_out(sh: Shell, server: ModelServer) -> None:
    done = sh("chat", "--model", server.url, "--cube", "town", stdin=f"{QUESTION}\n\nrepeat: good bye\n")
    assert (done.code, done.out, done.err) == (0, f"- {FACT}\ngood bye \n", "")


def test_the_whole_conversation_is_sent_with_each_turn_and_recalled_text_with_the_last_one(
    sh: Shell, server: ModelServer
) -> None:
    turns = f"{QUESTION}\nrepeat: two\n"
    sh("chat", "--model", server.url, "--cube", "town", "--system", "Be brief.", stdin=turns)
    sent = [(message["role"], message["content"].splitlines()[-1]) for message in server.asked[-1]["messages"]]
    assert sent == [
        ("system", "Be brief."),
        ("user", QUESTION),
        ("assistant", f"- {FACT}"),
        ("user", "repeat: two"),
    ]
    assert FACT not in server.asked[-1]["messages"][1]["content"]


def test_what_the_model_is_told_about_words_goes_along(sh: Shell, server: ModelServer) -> None:
    sh("chat", "--model", server.url, "--temperature", "0", "--max-tokens", "7", stdin="repeat: x\n")
    assert (server.asked[-1]["temperature"], server.asked[-1]["max_tokens"]) == (0, 7)


def test_a_program_gets_every_event_as_a_line_of_json(sh: Shell, server: ModelServer) -> None:
    done = sh("chat", "--model", server.url, "--cube", "town", "--json", stdin=f"{QUESTION}\n/why\n/cube\n/new\n")
    assert done.code == 0, done.err
    told = events(done.out)
    assert [event["event"] for event in told] == ["model", "recalling", "said", "finished", "why", "cubes", "new"]
    model, recalling, said, finished, why, cubes, _ = told
    assert (model["source"], model["remote"]) == (server.url, True)
    assert [(used["content"], used["form"], used["cube"]) for used in recalling["used"]] == [(FACT, "text", "town")]
    assert said["text"] == finished["text"] == f"- {FACT}"
    assert (finished["reason"], finished["tier"], finished["prompt_tokens"]) == ("stop", "text", 7)
    assert finished["ttft_ms"] > 0
    assert why["used"] == finished["used"]
    assert cubes["chosen"] == "town"


def test_with_json_a_pieces_of_a_reply_are_events_of_their_own(sh: Shell, server: ModelServer) -> None:
    done = sh("chat", "--model", server.url, "--json", stdin="repeat: one two three\n")
    assert [event["text"] for event in events(done.out) if event["event"] == "said"] == ["one ", "two ", "three "]


def test_control_characters_of_a_reply_and_of_a_memory_are_written_out(sh: Shell, server: ModelServer) -> None:
    with terminal(sh.data, "chat", "--model", server.url, "--cube", "hostile") as chat:
        chat.until("> ")
        spelled = json.dumps(HOSTILE)[1:-1]
        server.replies.append(HOSTILE)
        chat.types("say it\n")
        chat.until("\\x1b]0;owned\\x07\\x1b[2J\\u202e")
        chat.until("first token")
        chat.types("repeat: again\n")  # the reply before goes back, without them
        chat.until("first token")
        assert server.asked[-1]["messages"][-2]["content"] == "]0;owned[2J\u202e"
        assert spelled not in chat.seen
        assert not any(sequence in chat.seen for sequence in ("\x1b]0", "\x07", "\x1b[2J", "\u202e"))


def test_what_is_said_is_kept_only_when_it_is_set_so_and_what_was_recalled_is_not_kept_again(
    sh: Shell, server: ModelServer
) -> None:
    said = "My boat is a green Folkboat"
    sh("chat", "--model", server.url, "--cube", "boats", stdin=f"{said}\n")
    assert "boats" not in [cube["name"] for cube in sh.good("cube", "list")["cubes"]]
    sh("chat", "--model", server.url, "--cube", "boats", "--remember", stdin=f"{said}\nWhich boat is mine?\n")
    (items,) = [sh.good("recall", said, "--cube", "boats", "--response-format", "detailed")["memories"]]
    assert {item["content"] for item in items} == {said, "Which boat is mine?"}
    assert {item["kind"] for item in items} == {"message"}
    assert {item["role"] for item in items} == {"user"}
    sources = {item["descriptive"]["source"] for item in items}
    assert len(sources) == 1
    assert sources.pop().startswith("chat:")


def test_remembering_is_switched_on_and_off_in_the_conversation(sh: Shell, server: ModelServer) -> None:
    turns = (
        "repeat: before\n/remember on\nrepeat: between\n/remember off\nrepeat: after\n/remember The mast is spruce.\n"
    )
    done = sh("chat", "--model", server.url, "--cube", "switched", "--json", stdin=turns)
    assert [event["status"] for event in events(done.out) if event["event"] == "remembered"] == ["added", "added"]
    everything = sorted(contents(sh, "repeat before between after mast spruce", "switched"))
    assert everything == ["The mast is spruce.", "repeat: between"]


def test_the_cube_and_the_conversation_may_change(sh: Shell, server: ModelServer) -> None:
    turns = f"{QUESTION}\n/cube town\n/new\n{QUESTION}\n/memories\n/memories harbour\n"
    done = sh("chat", "--model", server.url, "--cube", "nowhere yet", "--json", stdin=turns)
    assert done.code == 0, done.err
    told = events(done.out)
    assert [event["text"] for event in told if event["event"] == "finished"] == ["unknown", f"- {FACT}"]
    assert [event["text"] for event in told if event["event"] == "remark"] == [
        "there is no cube 'nowhere yet' yet: what is remembered makes it"
    ]
    assert [memory["content"] for event in told if event["event"] == "memories" for memory in event["memories"]] == [
        FACT,
        FACT,
    ]
    assert [message["role"] for message in server.asked[-1]["messages"]] == ["user"]


def test_a_line_that_begins_like_a_path_is_a_turn_and_an_unknown_command_is_refused(
    sh: Shell, server: ModelServer
) -> None:
    done = sh("chat", "--model", server.url, stdin="/etc/passwd is what?\n/fnord\nrepeat: never\n")
    assert (done.code, done.out) == (1, "unknown\n")
    assert done.err == "memos-mcp: there is no command /fnord: /help shows those that there are\n"


def test_without_a_person_nothing_is_forgotten(sh: Shell, server: ModelServer) -> None:
    identity = sh.remember("The pilot boat is called Merle.", "--cube", "pilots")
    done = sh("chat", "--model", server.url, "--cube", "pilots", stdin=f"/forget {identity}\n")
    assert done.code == 1
    assert "asks a person" in done.err
    assert contents(sh, "pilot boat Merle", "pilots") == ["The pilot boat is called Merle."]


@pytest.mark.parametrize(
    ("words", "stdin", "complaint"),
    [
        ((), "hello\n", "no model is configured: name one with --model"),
        (("--model", "/nowhere/at/all"), "hello\n", "/nowhere/at/all is no folder"),
        (("--model", "http://127.0.0.1:1/v1"), "hello\n", "127.0.0.1:1"),
        (("--temperature", "9"), "hello\n", "temperature"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_1(
    tmp_path_factory: pytest.TempPathFactory,
    server: ModelServer,
    words: tuple[str, ...],
    stdin: str,
    complaint: str,
) -> None:
    with shell(tmp_path_factory.mktemp("refused") / "data") as fresh:
        model = ("--model", server.url) if words and "--model" not in words else ()
        done = fresh("chat", *words, *model, stdin=stdin)
    assert (done.code, done.out) == (1, "")
    assert complaint in done.err
    assert done.err.startswith("memos-mcp: ")
    assert done.err.count("\n") == 1


def test_input_that_is_not_utf_8_is_named_by_its_line(sh: Shell, server: ModelServer) -> None:
    done = subprocess.run(
        [*COMMAND, "chat", "--model", server.url],
        input=b"repeat: one\n\xff\n",
        capture_output=True,
        env=environment(sh.data),
        check=False,
        timeout=LONG_S,
    )
    assert (done.returncode, done.stdout) == (1, b"one \n")
    assert done.stderr == b"memos-mcp: line 2 of standard input is not UTF-8\n"


def test_the_model_may_come_from_the_environment(sh: Shell, server: ModelServer) -> None:
    assert sh("chat", stdin="repeat: here\n", MEMOS_MODEL=server.url).out == "here \n"


# --- a terminal -----------------------------------------------------------------------------------------------------


def test_a_person_sees_what_was_recalled_dimmed_then_the_reply_then_its_cost(talk: Terminal) -> None:
    talk.types(f"{QUESTION}\n")
    shown = talk.until("first token after")
    lines = [line.strip() for line in shown.splitlines()]
    assert any(line.startswith("m_") and line.endswith(f"text  {FACT}") for line in lines), lines
    assert f"- {FACT}" in lines
    assert "0 of 7 prompt tokens reused" in lines[-1]
    assert f"\x1b[2m  {lines[1]}" in talk.seen or "\x1b[2m  m_" in talk.seen
    talk.types("/why\n")
    assert FACT in " ".join(talk.until("first token after").split())  # a narrow column wraps it
    assert talk.end(CTRL_D) == 0


def test_ctrl_c_stops_the_reply_and_not_the_chat_and_twice_ends_it(talk: Terminal, server: ModelServer) -> None:
    server.left.clear()
    talk.types("go on\n")
    talk.until("on on on")
    talk.types(CTRL_C)
    talk.until("stopped; Ctrl-C again")
    until(server.left.is_set, "the model has been left")
    talk.until("> ")
    talk.types("repeat: still here\n")
    talk.until("still here \n")
    kept = server.asked[-1]["messages"][-2]
    assert kept["role"] == "assistant"
    assert kept["content"].startswith("on on on")
    talk.until("> ")
    talk.types("half a line")
    talk.until("half a line")  # readline is waiting for more
    talk.until("Ctrl-C again", CTRL_C)
    talk.until("> ")
    talk.types("enough")
    talk.until("enough")
    assert talk.end(CTRL_C) == 0


def test_slash_quit_leaves(talk: Terminal) -> None:
    talk.types("/quit\n")
    assert talk.end() == 0


def test_a_refusal_is_one_line_and_the_chat_goes_on(talk: Terminal) -> None:
    talk.types("/fnord\n")
    talk.until("memos-mcp: there is no command /fnord")
    talk.until("> ")
    talk.types("/why\n")
    talk.until("there is no reply yet")
    talk.types("/model ./nowhere\n")
    talk.until("memos-mcp: ./nowhere is no folder")
    talk.until("> ")
    talk.types("repeat: all is well\n")
    talk.until("all is well \n")


def test_forgetting_asks_first_and_archives(talk: Terminal, sh: Shell) -> None:
    identity = sh.remember("The crane is closed on Sundays.", "--cube", "town")
    talk.types(f"/forget {identity}\n")
    talk.until("The crane is closed on Sundays.")
    talk.until("Archive this memory? [y/N]")
    talk.types("n\n")
    talk.until("nothing was archived")
    assert contents(sh, "crane Sundays", "town")[0] == "The crane is closed on Sundays."
    talk.types(f"/forget {identity}\n")
    talk.until("Archive this memory? [y/N]")
    talk.types("y\n")
    talk.until(f"archived {identity}")
    assert "The crane is closed on Sundays." not in contents(sh, "crane Sundays", "town")


def test_arrow_keys_bring_back_what_was_typed(talk: Terminal) -> None:
    talk.types("repeat: echo one\n")
    talk.until("first token")
    talk.until("> ")
    talk.types("\x1b[A\n")
    talk.until("echo one \n")
    talk.until("first token")


def test_no_colour_means_no_escape_sequence_of_ours(sh: Shell, server: ModelServer) -> None:
    with terminal(sh.data, "chat", "--model", server.url, "--cube", "town", NO_COLOR="1", TERM="dumb") as chat:
        chat.until("> ")
        chat.types(f"{QUESTION}\n")
        chat.until("first token after")
        assert "\x1b[2m" not in chat.seen
