"""An OpenAI-compatible server as the reader: JSON of a schema where it takes one, else by its own good will.

It is asked on a thread of its own, so whoever waits can leave at once. Nothing that it says is believed here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

from engine.errors import Cancelled, Invalid, MemosError, TooLarge, Unavailable
from engine.model.remote import RemoteModel
from engine.model_operations import ChatTurn, Sampling
from engine.reader.extraction import Stopped
from engine.settings import Settings
from engine.text.json_forms import Form, schema

LOOK_UP_S = 0.1  # how long after it was stopped somebody who waits leaves


class Endpoint:
    """One server. Threads may share it."""

    def __init__(self, url: str, settings: Settings, variable: str) -> None:
        self._model = RemoteModel(url, settings, variable)
        self._host = urlsplit(url).hostname or url
        self._takes_schemas = True

    @property
    def name(self) -> str:
        return self._model.info.family or self._host

    @property
    def private(self) -> bool:
        return self._model.on_this_machine

    def ask(self, turns: Sequence[ChatTurn], form: Form, max_tokens: int, stopped: Stopped) -> str:
        """See `engine.reader.extraction.Asker`."""
        answered: list[str | BaseException] = []
        over = threading.Event()

        def work() -> None:
            try:
                answered.append(self._answer(turns, form, max_tokens, stopped))
            except BaseException as error:  # noqa: BLE001 - handed to the caller, who is waiting for it
                answered.append(error)
            over.set()

        threading.Thread(target=work, name="memos-reader", daemon=True).start()
        while not over.wait(LOOK_UP_S):
            if stopped():
                raise Cancelled("nobody waits for the reader any more")
        (answer,) = answered
        if isinstance(answer, BaseException):
            if isinstance(answer, MemosError):
                raise answer
            raise Unavailable(f"the reader at {self._host} failed ({type(answer).__name__})") from answer
        return answer

    def _answer(self, turns: Sequence[ChatTurn], form: Form, max_tokens: int, stopped: Stopped) -> str:
        if self._takes_schemas:
            try:
                return self._said(turns, Sampling(max_tokens, temperature=0.0), form, stopped)
            except TooLarge:
                raise
            except Invalid:  # it may only be the schema that it refuses
                answer = self._said(turns, Sampling(max_tokens, temperature=0.0), None, stopped)
                self._takes_schemas = False
                return answer
        return self._said(turns, Sampling(max_tokens, temperature=0.0), None, stopped)

    def _said(self, turns: Sequence[ChatTurn], sampling: Sampling, form: Form | None, stopped: Stopped) -> str:
        pieces: list[str] = []
        with self._model.stream(turns, sampling, None if form is None else schema(form)) as reply:
            for piece in reply:
                if stopped():
                    raise Cancelled("nobody waits for the reader any more")
                pieces.append(piece)
        return "".join(pieces)
