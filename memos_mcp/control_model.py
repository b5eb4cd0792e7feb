"""What the command line asks for about the local model: a reply as it comes, which model, what the KV tier keeps.

Synchronous functions from an asked request to a JSON value, as those of `control`, which runs them. No conversation is
kept here: who chats sends all of its turns each time. What must stay true: what was said is sent at once; whoever
leaves ends the reply; while a model loads, its asker hears that it does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, cast

from pydantic import Field

from cubes import Memory
from engine.errors import MemosError, NotFound, Unavailable
from engine.model_operations import (
    MAX_CHAT_CHARS,
    MAX_CHAT_TURNS,
    Chat,
    ChatTurn,
    MemoryUse,
    ModelInfo,
    Said,
    Sampling,
    Tier,
)
from engine.operations import RECALL_LIMIT, Caller
from memos_mcp import render, render_model
from memos_mcp.tools.recall import LIVE
from memos_mcp.wire import Arguments, CubeName, PathText, Whole, parse, unique

if TYPE_CHECKING:
    from collections.abc import Generator

    from engine.memos import MemOS
    from engine.model_operations import ChatEvent

SOON_S, STILL_LOADING_S = 0.1, 0.5  # when the asker first hears that a model is being loaded, and how often
NEWEST = 20
PAGE, MOST_WALKED = 500, 5_000  # memories


class Asked(Protocol):
    """One request while it runs."""

    params: Mapping[str, Any]
    caller: Caller

    def progress(self, done: float, total: float | None, message: str) -> None: ...

    def item(self, value: object) -> None: ...

    def flush(self) -> None: ...


class TurnArguments(Arguments):
    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=MAX_CHAT_CHARS)]


class OfModel(Arguments):
    model: PathText | None = None  # None: the one that is served
    offline: bool = False  # whoever asks wants nothing to be downloaded, whatever the daemon's own settings say


class ChatArguments(OfModel):
    """`cubes` absent: without memory. The engine checks the bounds of the rest."""

    turns: Annotated[list[TurnArguments], Field(max_length=MAX_CHAT_TURNS)]
    cubes: list[CubeName] | None = None
    tiers: list[Literal["text", "kv", "lora"]] | None = None
    limit: Whole = RECALL_LIMIT
    max_tokens: Whole | None = None
    temperature: float | None = None


class ModelArguments(OfModel):
    load: bool = False


class OfCube(Arguments):
    cube: CubeName | None = None


class BuildArguments(OfModel):
    cube: CubeName


class NewestArguments(Arguments):
    cube: CubeName


# --- chat -----------------------------------------------------------------------------------------------------------


def chat(memos: MemOS, asked: Asked) -> object:
    """The events of a reply, one item each."""
    wanted = parse(ChatArguments, asked.params)
    sampling = {name: getattr(wanted, name) for name in ("max_tokens", "temperature")}
    request = Chat(
        turns=tuple(ChatTurn(turn.role, turn.content) for turn in wanted.turns),
        memory=_memory(memos, wanted, asked),
        sampling=Sampling(**{name: value for name, value in sampling.items() if value is not None}),
        model=wanted.model,
    )
    loaded(memos, wanted, asked)
    since = time.monotonic()
    # a generator: closed when the asker leaves in the middle, so that the model stops
    with closing(cast("Generator[ChatEvent]", memos.chat(request, asked.caller))) as events:
        begun = False
        for event in events:
            if isinstance(event, Said) and not event.text:  # something was done, and there is nothing to say yet
                if not begun:
                    asked.progress(round(time.monotonic() - since), None, "s, reading")
            else:
                begun = begun or isinstance(event, Said)
                _tell(asked, render_model.event(event, owner=asked.caller.principal.owner))
    return {}


def _memory(memos: MemOS, wanted: ChatArguments, asked: Asked) -> MemoryUse | None:
    """Of the cubes that were named, those that are there: one that nothing was put into yet is empty, and no error."""
    cubes = []
    for name in unique(wanted.cubes or ()):
        try:
            cubes.append(memos.cube(name, asked.caller).cube.name)
        except NotFound:
            _tell(asked, {"event": "remark", "text": f"there is no cube {name!r} yet: what is remembered makes it"})
    tiers = tuple(Tier) if wanted.tiers is None else tuple(Tier(tier) for tier in unique(wanted.tiers))
    return MemoryUse(cubes=tuple(cubes), tiers=tiers, limit=wanted.limit) if cubes else None


def _tell(asked: Asked, event: Mapping[str, Any]) -> None:
    asked.item(event)
    asked.flush()


# --- the model ------------------------------------------------------------------------------------------------------


def model(memos: MemOS, asked: Asked) -> object:
    """The model that is served, as far as it is known; null: none was named."""
    wanted = parse(ModelArguments, asked.params)
    known = loaded(memos, wanted, asked) if wanted.load else memos.model(asked.caller, wanted.model)
    return None if known is None else render_model.model(known, owner=asked.caller.principal.owner)


def loaded(memos: MemOS, wanted: OfModel, asked: Asked) -> ModelInfo:
    """The model, loaded. Meanwhile the asker hears of it; one that leaves does not stop it: it is there for the next.

    Raises:
        MemosError: as the engine says it.
    """
    made: list[ModelInfo | None] = []
    refused: list[MemosError] = []
    done = threading.Event()

    def work() -> None:
        try:
            made.append(memos.model(asked.caller, wanted.model, load=True, offline=wanted.offline))
        except MemosError as error:
            refused.append(error)
        finally:
            done.set()

    threading.Thread(target=work, name="loading", daemon=True).start()
    since, wait_s = time.monotonic(), SOON_S
    while not done.wait(wait_s):
        asked.progress(round(time.monotonic() - since), None, f"s, loading {wanted.model or 'the model'}")
        wait_s = STILL_LOADING_S
    if refused:
        raise refused[0]
    if not made or made[0] is None:
        raise Unavailable("the model could not be loaded: the daemon's log has the details")
    return made[0]


# --- the KV tier ----------------------------------------------------------------------------------------------------


def tiers(memos: MemOS, asked: Asked) -> object:
    rows = memos.tiers(parse(OfCube, asked.params).cube, asked.caller)
    return {"tiers": [render_model.tier_row(row) for row in rows]}


def build_tier(memos: MemOS, asked: Asked) -> object:
    wanted = parse(BuildArguments, asked.params)
    memos.cube(wanted.cube, asked.caller)  # one that is not there is told of before anything is loaded
    info = loaded(memos, wanted, asked)
    if info.remote:
        raise Unavailable(f"{info.source} is a remote server with a cache of its own: only a local model has a KV tier")
    return render_model.tier_built(memos.build_tier(wanted.cube, asked.caller, asked.progress))


def drop_tier(memos: MemOS, asked: Asked) -> object:
    return {"dropped": memos.drop_tier(parse(OfCube, asked.params).cube, asked.caller)}


# --- what is in a cube ----------------------------------------------------------------------------------------------


def newest(memos: MemOS, asked: Asked) -> object:
    """The last memories of a cube that is not too large to be walked through; `memories` counts all of them."""
    name = parse(NewestArguments, asked.params).cube
    count = memos.cube(name, asked.caller).memories
    last: deque[Memory] = deque(maxlen=NEWEST)
    cursor: str | None = None
    while count <= MOST_WALKED:
        page = memos.memories(name, asked.caller, cursor=cursor, limit=PAGE)
        last.extend(memory for memory in page.memories if memory.state.value in LIVE)
        cursor = page.next_cursor
        if cursor is None:
            break
    return {"cube": name, "memories": count, "newest": [render.whole(memory) for memory in last]}


METHODS: dict[str, Callable[[MemOS, Asked], object]] = {
    "chat": chat,
    "model": model,
    "tiers": tiers,
    "build_tier": build_tier,
    "drop_tier": drop_tier,
    "newest": newest,
}
