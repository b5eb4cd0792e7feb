"""A model's chat template, rendered once around markers: the fixed text between the contents of the turns.

No content goes through the template, only a marker for each turn. So no content can be mistaken for a part of the
template, and each content is turned into tokens by itself. What a template does to contents is found out and followed:
whether it strips them (the markers stand between em spaces, which are then gone), and whether it takes the turns as
they are. Those that refuse system turns, or move them to the last turn (where no stored prefix could hold them), get
them at the start of the next user turn; those that want the roles to alternate get neighbours of one role as one.

It knows nothing of memory. The conversation must end with a user turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import Unavailable
from engine.model.tokens import tokens_for

if TYPE_CHECKING:
    from engine.model.loading import Loaded

PLAIN = (  # for models that have no template of their own
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content }}\n\n{% elif m.role == 'user' %}User: {{ m.content }}\n"
    "{% else %}Assistant: {{ m.content }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
PLAIN_STOPS = ("\nUser:",)
BETWEEN_JOINED = "\n\n"  # between turns that became one
THOUGHT_END = "</think>"
EDGE = "\N{EM SPACE}"
_MARKER = re.compile(f"({EDGE}?)memos([0-9]+)here({EDGE}?)")


@dataclass(frozen=True, slots=True)
class Slot:
    """Where the content of a turn goes, and on which sides the template strips it."""

    turn: int
    strips_left: bool
    strips_right: bool


@dataclass(frozen=True, slots=True)
class _Message:
    role: str
    turns: tuple[int, ...]


Frame = tuple[str | Slot, ...]


def framed(loaded: Loaded, roles: Sequence[str]) -> Frame:
    """The template's text around a slot for each of the turns, whose roles are given, up to where the reply begins.

    Raises:
        Unavailable: the template does not take the turns in any shape.
    """
    from jinja2 import TemplateError  # comes with the extra `local`, and is needed only where a model is

    refusals, moved = dict[str, None](), list[Frame]()
    for messages in _shapes([_Message(role, (turn,)) for turn, role in enumerate(roles)]):
        try:
            text = _rendered(loaded, messages, goes_on=True)
        except TemplateError as refusal:
            refusals[str(refusal) or type(refusal).__name__] = None
            continue
        frame = tuple(_split(text))
        slots = [part.turn for part in frame if isinstance(part, Slot)]
        if slots == list(range(len(roles))):
            return frame
        if not (missing := set(range(len(roles))) - set(slots)):
            moved.append(frame)
            continue
        refusals["it leaves out " + " and ".join(sorted({f"{roles[turn]} turns" for turn in missing}))] = None
    if moved:
        return moved[0]
    raise Unavailable(
        f"the chat template of {loaded.info.name} does not take this conversation ({'; '.join(refusals)}): "
        "choose another model, or correct its chat_template.jinja"
    )


def without_thoughts(loaded: Loaded, reply: str) -> str:
    """An earlier reply as the template would show it: those that know of thoughts drop them from earlier replies."""
    if THOUGHT_END in (loaded.template or "") and THOUGHT_END in reply:
        return reply.rsplit(THOUGHT_END, 1)[1].lstrip("\n")
    return reply


def end_of_reply(loaded: Loaded) -> int | None:
    """The control token that the template puts behind a reply, if it does. Not every model's settings name it."""
    from jinja2 import TemplateError  # comes with the extra `local`, and is needed only where a model is

    try:
        text = _rendered(loaded, [_Message("user", (0,)), _Message("assistant", (1,))], goes_on=False)
    except TemplateError:
        return None
    *_, slot, behind = ("", "", *_split(text))
    if isinstance(slot, str) or isinstance(behind, Slot):
        return None
    return tokens_for(loaded.tokenizer).leading_control(behind)


def stops(loaded: Loaded) -> tuple[str, ...]:
    """What ends a reply of a model that has no template."""
    return () if loaded.template else PLAIN_STOPS


def _shapes(messages: list[_Message]) -> Iterator[list[_Message]]:
    yield messages
    folded = _without_system(messages)
    if folded != messages:
        yield folded
    joined = _joined(folded)
    if joined != folded:
        yield joined
    if joined[0].role != "user":
        yield [_Message("user", ()), *joined]


def _without_system(messages: Sequence[_Message]) -> list[_Message]:
    """System turns at the start of the user turns that follow them."""
    folded, waiting = list[_Message](), tuple[int, ...]()
    for message in messages:
        if message.role == "system":
            waiting += message.turns
        elif message.role == "user":
            folded.append(_Message("user", waiting + message.turns))
            waiting = ()
        else:
            folded.append(message)
    return folded


def _joined(messages: Sequence[_Message]) -> list[_Message]:
    joined = list[_Message]()
    for message in messages:
        if joined and joined[-1].role == message.role:
            joined[-1] = _Message(message.role, joined[-1].turns + message.turns)
        else:
            joined.append(message)
    return joined


def _rendered(loaded: Loaded, messages: Sequence[_Message], *, goes_on: bool) -> str:
    told = [
        {
            "role": message.role,
            "content": BETWEEN_JOINED.join(f"{EDGE}memos{turn}here{EDGE}" for turn in message.turns),
        }
        for message in messages
    ]
    return str(
        loaded.tokenizer.apply_chat_template(
            told, chat_template=loaded.template or PLAIN, tokenize=False, add_generation_prompt=goes_on
        )
    )


def _split(text: str) -> Iterator[str | Slot]:
    at = 0
    for found in _MARKER.finditer(text):
        if text[at : found.start()]:
            yield text[at : found.start()]
        left, turn, right = found.groups()
        yield Slot(int(turn), not left, not right)
        at = found.end()
    if text[at:]:
        yield text[at:]
