"""What a person, a pipe or a program sees of a conversation with the local model.

Replies go to standard output as they come, each piece at once. What is said about them (what was recalled, what it
cost) goes to standard error: dimmed for a person, only with `--verbose` otherwise. A program gets every event as one
line of JSON. Knows no daemon. What must stay true: control characters of a reply or of a memory never reach the
terminal; the only escape sequences are ours.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from memos_mcp.terminal import Screen, harmless, width

DIM, PLAIN, CLEAR_LINE = "\x1b[2m", "\x1b[0m", "\r\x1b[K"
SHOWN_MEMORIES = 8
LEAST_COLUMNS = 40
Event = Mapping[str, Any]


@dataclass
class Display:
    """`person`: somebody watches standard error. `screen.as_json`: a program reads standard output."""

    screen: Screen
    person: bool
    _remarked: set[str] = field(default_factory=set, init=False)
    _in_reply: bool = field(default=False, init=False)  # whether a line of the reply is open
    _waiting: bool = field(default=False, init=False)  # whether the line "loading" stands there

    @property
    def colours(self) -> bool:
        return self.person and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") not in ("", "dumb")

    # --- a reply as it comes -----------------------------------------------------------------------------------------

    def loading(self, done: float, total: float | None, message: str) -> None:
        """Progress of what comes before a reply: seconds so far, and what is waited for."""
        said = harmless(message.removeprefix("s, "), keep="")
        if self.screen.as_json:
            self._json({"event": "waiting", "for": said, "seconds": done})
        elif self.person:
            self._waiting = True
            self._err(f"{CLEAR_LINE}{self._dim(_cut(f'{said} … {done:.0f} s', self._columns))}")

    def event(self, event: Event) -> None:
        """One event of a reply."""
        self.clear()
        if self.screen.as_json:
            self._json(event)
        elif event["event"] == "said":
            self._said(event["text"])
        elif event["event"] == "recalling":
            self._recalling(event["used"])
        elif event["event"] == "finished":
            self._finished(event)
        elif event["event"] == "remark":
            self.note(event["text"])

    def _said(self, text: str) -> None:
        if text:
            self.screen.out.write(harmless(text))
            self.screen.out.flush()
            self._in_reply = True

    def _recalling(self, used: Sequence[Event]) -> None:
        for memory in used[:SHOWN_MEMORIES]:
            pinned = ", pinned" if memory["pinned"] else ""
            self.note(f"  {memory['id']} {memory['form']}{pinned}  {memory['content']}")
        if len(used) > SHOWN_MEMORIES:
            self.note(f"  and {len(used) - SHOWN_MEMORIES} more: /why shows all")

    def _finished(self, event: Event) -> None:
        self.end_line()
        for said in event["remarks"]:
            if said not in self._remarked:  # /why repeats them
                self._remarked.add(said)
                self.note(f"  {said}", whole=True)
        cut = "cut off at --max-tokens; " if event["reason"] == "length" else ""
        self.note(f"  {cut}{cost(event)}", whole=True)

    def end_line(self) -> None:
        """Close the line that the reply stands in."""
        if self._in_reply:
            self._in_reply = False
            self.screen.out.write("\n")
            self.screen.out.flush()

    def clear(self) -> None:
        """Take the line away that says what is waited for."""
        if self._waiting:
            self._waiting = False
            self._err(CLEAR_LINE)

    # --- beside replies ----------------------------------------------------------------------------------------------

    def note(self, text: str, *, whole: bool = False) -> None:
        """A line about the conversation, cut to the terminal's width unless `whole`."""
        if self.person:
            line = harmless(text, keep="") if whole else _cut(harmless(text, keep=" "), self._columns)
            self.screen.out.flush()
            self._err(f"{self._dim(line)}\n")
        elif self.screen.verbose and not self.screen.as_json:
            self.screen.remark(text.strip())

    def told(self, event: Event, text: str) -> None:
        """What a command of the conversation did: for a program as an event, else in words."""
        if self.screen.as_json:
            self._json(event)
        else:
            self.note(text, whole=True)

    def table(self, event: Event, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """What a command of the conversation found."""
        if self.screen.as_json:
            self._json(event)
        else:
            self.screen.table(headings, rows)
            self.screen.out.flush()

    def _json(self, event: Event) -> None:
        self.screen.out.write(json.dumps(event, ensure_ascii=False) + "\n")
        self.screen.out.flush()

    def _dim(self, text: str) -> str:
        return f"{DIM}{text}{PLAIN}" if self.colours else text

    def _err(self, text: str) -> None:
        self.screen.err.write(text)
        self.screen.err.flush()

    @property
    def _columns(self) -> int:
        return max(_terminal_columns(self.screen), LEAST_COLUMNS)


def cost(event: Event) -> str:
    """What a reply cost, in one line."""
    count = event["completion_tokens"]
    parts = ["1 token" if count == 1 else f"{count:,} tokens"]
    parts.append(f"{event['reused_tokens']:,} of {event['prompt_tokens']:,} prompt tokens reused")
    if event["recomputed_tokens"]:
        parts.append(f"{event['recomputed_tokens']:,} recomputed")
    if event["saved_tokens"]:
        parts.append(f"{event['saved_tokens']:,} saved by adapter {event['adapter']}")
    elif event["adapter"]:
        parts.append(f"through adapter {event['adapter']}")
    if event["left_out_turns"]:
        parts.append(f"{event['left_out_turns']:,} oldest turns left out")
    if event["left_out_memories"]:
        parts.append(f"{event['left_out_memories']:,} memories left out")
    return " · ".join([*parts, f"first token after {event['ttft_ms']:,.0f} ms"])


def model_line(info: Event) -> str:
    """A model in one line."""
    if info["remote"]:
        return f"{info['source']} · a remote server, which gets memory as text"
    kv = "KV tier" if info["kv_refusal"] is None else f"no KV tier: {info['kv_refusal']}"
    size = f"{info['parameters'] / 1e9:.1f}B" if info["parameters"] >= 1e9 else f"{info['parameters'] / 1e6:.1f}M"
    return (
        f"{info['source']} · {info['family']}, {size} parameters, {info['dtype']} on {info['device']}, "
        f"context of {info['context_tokens']:,} tokens · {kv}"
    )


def _terminal_columns(screen: Screen) -> int:
    try:
        return os.get_terminal_size(screen.err.fileno()).columns
    except OSError:
        return LEAST_COLUMNS * 2


def _cut(text: str, columns: int) -> str:
    line = text.rstrip()
    if width(line) < columns:
        return line
    while width(line) >= columns - 1:
        line = line[:-1]
    return f"{line}…"
