"""An agent loop with real tool calls and no hosted model.

The loop is the one that every agent has: list the tools, let a policy decide, call the tool, show the result to the
policy, until it answers. The policy stands where a language model would: it sees the person's line, the tools that
the server offers and the results so far, and returns the next call or an answer. Here it is a handful of rules.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_memory import data_folder, folder_option, server, use
from mcp import Client
from mcp.types import Tool

SCRIPT = (
    "Remember that our bakery order for Saturday is 40 sourdough loaves.",
    "Remember that Kirsten is allergic to sesame.",
    "What may Kirsten not eat?",
    "Actually, the bakery order for Saturday is 55 sourdough loaves.",
    "How many loaves are ordered for Saturday?",
    "Forget what I said about Kirsten.",
    "What may Kirsten not eat?",
    "Good night!",
)
MAX_STEPS = 4


@dataclass(frozen=True)
class Call:
    tool: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    text: str


@dataclass
class Step:
    """A call that was made, and what came back."""

    call: Call
    result: dict[str, Any] = field(default_factory=dict)


def decide(line: str, tools: Sequence[Tool], steps: Sequence[Step]) -> Call | Answer:
    """The next call, or the answer. A model would choose from the same things."""
    offered = {tool.name for tool in tools}
    rules = (
        (r"remember (?:that )?(.+)", "remember", _keep),
        (r"actually, (.+)", "remember", _correct),
        (r"forget (?:what I said )?about (.+?)[.!]?$", "forget", _forget),
        (r"(.+\?)$", "recall", _look_up),
    )
    for pattern, tool, rule in rules:
        match = re.match(pattern, line, re.IGNORECASE)
        if match and tool in offered:
            return rule(match.group(1), steps)
    return Answer("Good night!" if "night" in line.lower() else "I can remember, look up and forget things for you.")


def _keep(what: str, steps: Sequence[Step]) -> Call | Answer:
    if not steps:
        return Call("remember", {"content": what[:1].upper() + what[1:]})
    return Answer(f"I will remember that ({steps[-1].result['stored'][0]['status']}).")


def _correct(what: str, steps: Sequence[Step]) -> Call | Answer:
    """A correction: find what it replaces, then store it in its place."""
    if not steps:
        return Call("recall", {"query": what, "limit": 1})
    if len(steps) == 1:
        old = [memory["id"] for memory in steps[0].result["memories"]]
        return Call("remember", {"content": what[:1].upper() + what[1:], "supersedes": old})
    return Answer(f"Corrected ({steps[-1].result['stored'][0]['status']}).")


def _forget(what: str, steps: Sequence[Step]) -> Call | Answer:
    """By words, forget only shows what it found: the policy reads that, and names the ones that are meant."""
    if not steps:
        return Call("forget", {"query": what})
    if len(steps) == 1:
        meant = [memory["id"] for memory in steps[0].result["preview"] if what.lower() in memory["content"].lower()]
        return Call("forget", {"ids": meant}) if meant else Answer("There was nothing to forget.")
    return Answer(f"I no longer use it ({len(steps[-1].result['forgotten'])} archived).")


def _look_up(question: str, steps: Sequence[Step]) -> Call | Answer:
    if not steps:
        return Call("recall", {"query": question, "limit": 1})
    found = steps[-1].result
    if found["nothing_relevant"] or not found["memories"]:
        return Answer("I do not know.")
    return Answer(found["memories"][0]["content"])


async def turn(client: Client, tools: Sequence[Tool], line: str) -> str:
    """One turn of the conversation: as many tool calls as the policy wants, then its answer."""
    print(f"\nperson  {line}")
    steps: list[Step] = []
    while len(steps) < MAX_STEPS:
        decision = decide(line, tools, steps)
        if isinstance(decision, Answer):
            print(f"agent   {decision.text}")
            return decision.text
        print(f"        -> {decision.tool} {decision.arguments}")
        steps.append(Step(decision, await use(client, decision.tool, **decision.arguments)))
    return "I gave up."


async def converse(data: Path, script: Sequence[str]) -> list[str]:
    async with Client(server(data)) as client:
        tools = (await client.list_tools()).tools
        print("tools:", ", ".join(tool.name for tool in tools))
        return [await turn(client, tools, line) for line in script]


if __name__ == "__main__":
    chosen = folder_option("An agent loop with real tool calls and no hosted model.")
    with data_folder(chosen) as folder:
        asyncio.run(converse(folder, SCRIPT))
