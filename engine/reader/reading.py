"""From a request to drafts: what is kept, as what kind, from when, by whom, in which pieces.

A pure function of the request and the present instant. It knows no store: whether something is there already is not
its question, except that memories which came out of recall are recognised by their delimiters. Whatever is refused is
refused before any draft exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from cubes import Kind, Origin
from engine.operations import Remember, Turn
from engine.reader.checks import check
from engine.reader.drafts import Draft, Reading
from engine.reader.entities import entities
from engine.reader.kinds import classify
from engine.reader.secrets import refuse_secrets
from engine.reader.sessions import sessions
from engine.text.dates import Found, find
from engine.text.recalled import take_out
from engine.text.sentences import pieces

IsOurs = Callable[[str, str], bool]
RETRIEVAL_UNIT_CHARS = 1_200  # about 256 tokens, which is what an embedder reads at once: longer text is split


def read(request: Remember, now: datetime, is_ours: IsOurs = lambda id, content: True) -> Reading:
    """Drafts of what the request holds. `is_ours` tells recalled memories from words that only look like them.

    Of content the first draft is the whole; if it is long, the pieces that cover it follow. Of messages there is
    exactly one draft for each.

    Raises:
        Invalid: a rule is broken, or there is a likely secret; the message says where and what to do.
        TooLarge: a bound was passed.
    """
    check(request)
    refuse_secrets(request)
    tags = tuple(dict.fromkeys(tag.strip() for tag in request.tags))
    drafts = (
        _from_messages(request, tags, now, is_ours)
        if request.content is None
        else _from_content(request, tags, now, is_ours)
    )
    return Reading(tuple(drafts))


def draft_text(request: Remember, now: datetime) -> tuple[Draft, ...]:
    """Drafts of a text that is kept as it is, whatever it holds: the whole, then the pieces that cover a long one."""
    tags = tuple(dict.fromkeys(tag.strip() for tag in request.tags))
    return tuple(_from_content(request, tags, now, lambda id, content: False))


def _from_content(request: Remember, tags: tuple[str, ...], now: datetime, is_ours: IsOurs) -> Iterator[Draft]:
    assert request.content is not None
    rest, echoed = take_out(request.content, is_ours)
    if echoed and not rest.strip():
        yield Draft(
            content=request.content,
            kind=request.kind or Kind.FACT,
            origin=Origin.RETRIEVAL,
            occurred_at=request.occurred_at,
            tags=tags,
            source=request.source,
            echoed=echoed,
        )
        return
    text = rest
    found = find(text, request.occurred_at or now)
    mentions = tuple(item.mention for item in found)
    is_long = len(text) > RETRIEVAL_UNIT_CHARS
    kind = request.kind or (Kind.DOCUMENT if is_long else classify(text, mentions))
    is_one_event = not is_long and kind is not Kind.DOCUMENT
    occurred_at = _event_time(found, request.occurred_at) if is_one_event else request.occurred_at
    yield Draft(
        content=text,
        kind=kind,
        occurred_at=occurred_at,
        mentions=mentions,
        entities=entities(text),
        tags=tags,
        source=request.source,
        echoed=echoed,
    )
    if is_long:
        yield from _pieces(text, kind, request, tags, found)


def _event_time(found: list[Found], given: datetime | None) -> datetime | None:
    """When it happened: the first date that the text names, else what the caller said.

    A time of day alone ("the shop opens at 9am") and a stretch of time ("over the past two weeks") date no event.
    """
    return next((item.mention.start for item in found if item.unit not in ("clock", "range")), given)


def _pieces(text: str, kind: Kind, request: Remember, tags: tuple[str, ...], found: list[Found]) -> Iterator[Draft]:
    index = 0
    for start, end in pieces(text, RETRIEVAL_UNIT_CHARS):
        first = index
        while index < len(found) and found[index].start < end:
            index += 1
        yield Draft(
            content=text[start:end],
            kind=kind,
            occurred_at=request.occurred_at,
            mentions=tuple(item.mention for item in found[first:index]),
            entities=entities(text[start:end]),
            tags=tags,
            source=request.source,
            part_of=0,
        )


def _from_messages(request: Remember, tags: tuple[str, ...], now: datetime, is_ours: IsOurs) -> Iterator[Draft]:
    for turn, (session, position) in zip(request.messages, sessions(request.messages, request.source), strict=True):
        yield _from_turn(turn, session, position, request, tags, now, is_ours)


def _from_turn(
    turn: Turn,
    session: str,
    position: int,
    request: Remember,
    tags: tuple[str, ...],
    now: datetime,
    is_ours: IsOurs,
) -> Draft:
    rest, echoed = take_out(turn.content, is_ours)
    only_echo = bool(echoed) and not rest.strip()
    occurred_at = turn.at or request.occurred_at
    text = turn.content if only_echo else rest
    return Draft(
        content=text,
        kind=Kind.MESSAGE,
        origin=Origin.RETRIEVAL if only_echo else Origin.USER,
        occurred_at=occurred_at,
        mentions=() if only_echo else tuple(item.mention for item in find(text, occurred_at or now)),
        entities=() if only_echo else entities(text),
        role=turn.role,
        actor=turn.name or turn.role,
        session=session,
        position=position,
        tags=tags,
        source=request.source,
        echoed=echoed,
    )
