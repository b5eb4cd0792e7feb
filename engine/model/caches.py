"""The library's own cache, for models whose KV cache is not kept, and whether a model continues from it rightly.

Replies are computed in steps, each behind the cache of the steps before. Some layers (state-space ones above all) do
that wrongly in the library for more than one token a step. So a model outside the table of `engine.model.layouts` is
tried out once, when it is loaded.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import DynamicCache, PretrainedConfig

TRIED_TOKENS = (30, 40, 1, 1, 8)  # the steps of the trial
EXACT_NATS, ROUNDED_NATS = 1e-5, 0.01
"""How far, as mean KL, the trial may be from one pass over all tokens: in float32, and in 16 bits, which alone bring
about 0.001."""


class OwnCache(DynamicCache):  # type: ignore[misc]  # transformers is not typed
    """The cache of one reply; it can be continued, not looked into or cut."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config=config)

    @property
    def tokens(self) -> int:
        """How many tokens it holds."""
        return int(self.get_seq_length())

    def cut(self, tokens: int) -> None:
        raise NotImplementedError(f"a cache of {self.tokens} tokens that is not kept needs no cutting to {tokens}")


def continuation_fault(model: Any) -> str | None:
    """Why the model cannot be continued from its cache, in words; None: it can, as a trial shows."""
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return "it has a cache of another kind than replies are continued from"
    rows = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, rows, (1, sum(TRIED_TOKENS)), generator=generator).to(model.device)
    try:
        cache = OwnCache(model.config)
        with torch.inference_mode():
            whole = model(input_ids=ids).logits[0]
            steps = ids.split(TRIED_TOKENS, 1)
            parts = [model(input_ids=part, past_key_values=cache, use_cache=True).logits[0] for part in steps]
    except (ValueError, RuntimeError, TypeError, AttributeError, LookupError, NotImplementedError) as error:
        return f"the library cannot continue it ({(str(error).splitlines() or [type(error).__name__])[0][:120]})"
    expected, given = whole.float().log_softmax(-1), torch.cat(parts).float().log_softmax(-1)
    difference = float((expected.exp() * (expected - given)).sum(-1).mean())
    bound = EXACT_NATS if whole.dtype == torch.float32 else ROUNDED_NATS
    if cache.tokens != ids.shape[1] or not difference <= bound:
        return f"the library continues it wrongly (mean KL {difference:.2g} to a single pass)"
    return None
