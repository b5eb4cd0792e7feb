"""Two assistants, one memory: what `make demo` runs.

A first assistant remembers a conversation of eight months, session by session. A second one, a process of its own,
answers from it and adds something. Then memories are fused, one is erased, and the whole data folder is searched for
its text. Everything goes through the same stdio process that assistants start; nothing touches the network, and no
process is left behind. The exit code is 1 if anything came out otherwise than it should.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_memory import COMMAND, data_folder, server, use
from mcp import Client

CONVERSATION = Path(__file__).with_name("conversation.json")
CUBE = "noor"
SECOND = "--second-assistant"


@dataclass(frozen=True)
class Question:
    """`expected` must be in what recall finds; `rather_than`, if found too, must stand below it."""

    text: str
    expected: str
    rather_than: str | None = None
    during: tuple[str, str] | None = None


QUESTIONS = (
    Question("What is Noor allergic to?", "Hazelnuts"),
    Question("When is the planting plan for the Griftpark due?", "20 March", rather_than="27 February"),
    Question("On which day is the call with Daniel Okafor now?", "Tuesdays at 14:00", rather_than="every Thursday"),
    Question("How big is the playground at De Kleine Beer now?", "450 square", rather_than="600 square"),
    Question("What big news did Noor have about her job?", "Wilgenrijs", during=("2026-05-01", "2026-06-01")),
    Question("When do Noor and Tomás travel to Lisbon?", "3 to 10 October"),
)
FROM_THE_SECOND = "Noor's train to Lisbon leaves Amersfoort on 3 October at 7:04 from platform 5."
FUSED = "Noor's call with Daniel Okafor is on Tuesdays at 14:00. Until May 2026 it was on Thursdays at 9:30."
SECRET = "Miradouro da Graça"


def say(text: str = "") -> None:
    print(text, flush=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    say(f"  {what}: {(time.perf_counter() - started) * 1000:,.0f} ms")


class Failed(Exception):
    """Something came out otherwise than it should."""


def check(condition: bool, complaint: str) -> None:
    if not condition:
        raise Failed(complaint)


# --- the first assistant --------------------------------------------------------------------------------------------


async def first_assistant(data: Path) -> None:
    say("Assistant 1 starts. No daemon runs yet, so its stdio process starts one.")
    started = time.perf_counter()
    async with Client(server(data)) as client:
        say(f"  first reply after {(time.perf_counter() - started) * 1000:,.0f} ms")
        ids = await remember_all(client)
        say("\nAssistant 2 starts, in a process of its own, while the first one stays connected.")
        second = await asyncio.to_thread(run_second, data)
        check(second == 0, "the second assistant did not find what the first one stored")
        await learn_from_second(client)
        await fuse_two(client, ids)
        await erase_one(client, data, ids)


async def remember_all(client: Client) -> dict[str, str]:
    """Remember every session; the id of each turn by its text."""
    ids: dict[str, str] = {}
    for session in json.loads(CONVERSATION.read_text("utf-8"))["sessions"]:
        messages = session["messages"]
        with timed(f"remembered {session['id']}, {len(messages)} turns"):
            result = await use(client, "remember", messages=messages, cube=CUBE, source=session["id"])
        ids |= {turn["content"]: entry["id"] for turn, entry in zip(messages, result["stored"], strict=False)}
    return ids


def run_second(data: Path) -> int:
    return subprocess.run([sys.executable, __file__, SECOND, str(data)], check=False).returncode


async def learn_from_second(client: Client) -> None:
    say("\nAssistant 1 asks for what only assistant 2 was told.")
    best = await ask(client, Question("When does the train to Lisbon leave?", "7:04"))
    check(best is not None, "the first assistant did not find what the second one stored")


async def fuse_two(client: Client, ids: dict[str, str]) -> None:
    say("\nTwo memories of the call with Daniel Okafor become one.")
    parents = [containing(ids, "a call with him every Thursday"), containing(ids, "Tuesdays at 14:00")]
    with timed("fused"):
        result = await use(client, "fuse", ids=parents, content=FUSED)
    say(f"  {result['fused']['id']} from {', '.join(result['merged'])}, which can be had back")
    check(sorted(result["merged"]) == sorted(parents), "other memories were fused than those asked for")


async def erase_one(client: Client, data: Path, ids: dict[str, str]) -> None:
    say("\nNoor asked to forget what she said about a ring. Erasing shows first what it would erase.")
    target = containing(ids, SECRET)
    say(f"  the data folder holds its text in {hits(data, SECRET)} places")
    preview = await use(client, "forget", ids=[target], mode="erase", reason="Noor asked for it")
    for entry in preview["preview"]:
        say(f"  would erase {entry['id']}: {entry['content']}")
    if preview["confirm"]:
        with timed("erased"):
            preview = await use(client, "forget", confirm=preview["confirm"], mode="erase")
    check([entry["id"] for entry in preview["forgotten"]] == [target], "it was not erased")
    say(f"  receipt {preview['receipt']['id']}: removed {preview['receipt']['removed']}")
    left = hits(data, SECRET)
    say(f"  a search of the whole data folder for its text: {left} hits")
    check(left == 0, "the erased text is still in the data folder")


def containing(ids: dict[str, str], words: str) -> str:
    return next(identity for text, identity in ids.items() if words in text)


def hits(data: Path, text: str) -> int:
    """How often the text stands in any file of the data folder, in any encoding that something here may use."""
    escaped = json.dumps(text)[1:-1]
    forms = {text.encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be", "latin-1")} | {escaped.encode()}
    files = [path for path in data.rglob("*") if path.is_file() and not path.is_socket()]
    return sum(path.read_bytes().count(form) for path in files for form in forms)


# --- the second assistant -------------------------------------------------------------------------------------------


async def second_assistant(data: Path) -> int:
    started = time.perf_counter()
    async with Client(server(data)) as client:
        say(f"  first reply after {(time.perf_counter() - started) * 1000:,.0f} ms, from the same daemon")
        answers = [await ask(client, question) for question in QUESTIONS]
        with timed("remembered one thing of its own"):
            await use(client, "remember", content=FROM_THE_SECOND, cube=CUBE)
    return 0 if all(answers) else 1


async def ask(client: Client, question: Question) -> dict[str, Any] | None:
    """Recall and show the best; the memory that answers, or None."""
    when = dict(zip(("after", "before"), question.during, strict=True)) if question.during else {}
    started = time.perf_counter()
    result = await use(client, "recall", query=question.text, **when)
    found: list[dict[str, Any]] = result["memories"]
    took_ms = (time.perf_counter() - started) * 1000
    rank, answer = next(((n, m) for n, m in enumerate(found) if question.expected in m["content"]), (len(found), None))
    older = [m for m in found[:rank] if question.rather_than and question.rather_than in m["content"]]
    limits = f" (only {question.during[0]} to {question.during[1]})" if question.during else ""
    say(f"  ? {question.text}{limits}")
    if answer is None or older:
        say(f"    NOT FOUND: {question.expected!r}; the best were {[m['content'] for m in found[:3]]}")
        return None
    day = (answer["occurred_at"] or answer["created_at"])[:10]
    say(f"    {answer['content']}\n    said on {day}, place {rank + 1} of {len(found)}, {took_ms:,.0f} ms")
    return answer


# --- the whole ------------------------------------------------------------------------------------------------------


def main() -> int:
    if sys.argv[1:2] == [SECOND]:
        return asyncio.run(second_assistant(Path(sys.argv[2])))
    started = time.perf_counter()
    with data_folder(None) as data:
        asyncio.run(first_assistant(data))
        status = json.loads(subprocess.check_output([COMMAND, "status", "--json", "--data", str(data)]))
    say("\nWhat the two assistants shared:")
    say(f"  assistant 1 told, assistant 2 answered from it: {len(QUESTIONS)} questions of {len(QUESTIONS)}")
    say(f"  assistant 2 told, assistant 1 found it: {FROM_THE_SECOND}")
    say(f"  one store, one daemon (process {status['pid']}, now ended), memories by state: {status['counts']}")
    say(f"  embedder: {status['embedder']}; degraded: {status['degraded'] or 'no'}")
    say(f"Done in {time.perf_counter() - started:,.1f} s. Nothing runs any more and the data folder is gone.")
    return 0


def shown(failures: BaseExceptionGroup[Failed]) -> str:
    """What went wrong, however deep the connection's task groups wrapped it."""
    while isinstance(first := failures.exceptions[0], BaseExceptionGroup):
        failures = first
    return str(first)


if __name__ == "__main__":
    code = 1
    try:
        code = main()
    except* Failed as failed:
        say(f"\nThe demo failed: {shown(failed)}")
    sys.exit(code)
