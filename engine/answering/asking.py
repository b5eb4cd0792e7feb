"""The local model as the reader: what it writes is held to the form, behind all replies to people.

No memory goes into the prompt and nothing of it is kept in the KV tier. It imports no torch before it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from engine.answering.answering import Answering
from engine.embeddings import SYSTEM
from engine.errors import Cancelled, TooLarge, Unavailable
from engine.model_operations import ChatTurn, Sampling
from engine.reader.extraction import Stopped
from engine.text.json_forms import Form

if TYPE_CHECKING:
    from engine.model.loading import Loaded


class LocalAsker:
    """The model of the settings, loaded when it is first asked."""

    private = True

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._name = "model"

    @property
    def name(self) -> str:
        return self._name

    def ask(self, turns: Sequence[ChatTurn], form: Form, max_tokens: int, stopped: Stopped) -> str:
        """See `engine.reader.extraction.Asker`."""
        local, runner = self._answering.for_work(SYSTEM)
        self._name = runner.loaded.info.name

        def steps(loaded: Loaded) -> Iterator[str | None]:
            return _written(loaded, turns, form, max_tokens)

        with local.host.in_use(), runner.stream(steps, background=True) as results:
            for said in results:
                if stopped():
                    raise Cancelled("nobody waits for the reader any more")
                if said is not None:
                    return said
        raise Unavailable("the model ended without an answer: ask again")


def _written(loaded: Loaded, turns: Sequence[ChatTurn], form: Form, max_tokens: int) -> Iterator[str | None]:
    """None after each step, then what was written. On the model's thread."""
    from engine.model.constrained import FormChooser
    from engine.model.generation import generate
    from engine.model.prompts import lay_out
    from engine.tiers.kv.tensors import WorkingCache

    context = loaded.info.context_tokens
    tokens = min(max_tokens, context // 3) if context else max_tokens
    prompt = lay_out(loaded, turns, (), (), tokens)
    if prompt.left_out_turns:
        raise TooLarge(f"the turns do not fit into {loaded.info.name}: fewer are read at once")
    chooser, cache = FormChooser(form, loaded.tokenizer), WorkingCache(loaded.model.config)
    sampling = Sampling(max_tokens=tokens, temperature=0.0)
    for _ in generate(loaded, prompt.ids, cache, sampling, chooser=chooser):
        yield None
    yield chooser.text
