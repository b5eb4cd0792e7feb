"""Chat with a local model that remembers: the engine inside a program of your own, with no server between.

It remembers two facts, asks about them, and shows which memories the model was given, in which form, and how much of
the prompt it did not have to read again. In a terminal it is then your turn.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from engine.cube_operations import Govern
from engine.errors import MemosError
from engine.memos import MemOS
from engine.model_operations import Chat, ChatTurn, Finished, MemoryUse, Said, Sampling
from engine.operations import Caller, Remember
from engine.settings import environment_settings

ME = Caller()  # the owner of the data folder
FACTS = ("The city of Alice is Paris.", "The food of Bob is sushi.")
QUESTIONS = ("What is the city of Alice?", "What is the food of Bob?", "What is the city of Alice?")


def answer(memos: MemOS, turns: list[ChatTurn], question: str) -> None:
    """Ask one more question in a conversation, and show the reply as it comes."""
    turns.append(ChatTurn("user", question))
    request = Chat(tuple(turns), memory=MemoryUse(), sampling=Sampling(max_tokens=200, temperature=0))
    for event in memos.chat(request, ME):
        if isinstance(event, Said):
            print(event.text, end="", flush=True)
        elif isinstance(event, Finished):
            turns.append(ChatTurn("assistant", event.text))
            report = event.report
            for used in report.used:
                print(f"\n  {used.form.value:7} {used.content}", end="")
            print(f"\n  {report.prompt_tokens} prompt tokens, {report.reused_tokens} of them reused; ", end="")
            print(f"first token after {report.ttft_ms:.0f} ms")


def chat(memos: MemOS) -> None:
    model = memos.model(ME, load=True)
    if model is not None:
        print(f"{model.source}: {model.parameters:,} parameters, {model.dtype} on {model.device}")
    stored = [memos.remember(Remember(content=fact), ME).stored[0].id for fact in FACTS]
    # Pinned memories come with every question; their KV cache is kept, and read instead of them.
    memos.govern(Govern(ids=tuple(stored), pinned=True), ME)

    for question in QUESTIONS:
        print(f"\nyou    {question}\nmodel  ", end="")
        answer(memos, [], question)

    turns: list[ChatTurn] = []  # from here on one conversation
    while sys.stdin.isatty() and (question := input("\nyou    ").strip()):
        answer(memos, turns, question)


def main() -> int:
    parser = argparse.ArgumentParser(description="Chat with a local model that remembers.")
    parser.add_argument("--model", default="Qwen/Qwen2.5-0.5B-Instruct", help="a Hugging Face name or a folder")
    parser.add_argument("--offline", action="store_true", help="download nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memos-example-") as folder:
        settings = environment_settings(data=Path(folder) / "data")
        settings = replace(settings, model=options.model, offline=options.offline)
        try:
            with MemOS.open(settings) as memos:
                chat(memos)
        except MemosError as error:  # for example: what to install
            print(f"{error.code}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
