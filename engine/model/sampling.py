"""Which token comes next: the likeliest, or one drawn from the likely ones.

Drawing has a generator of its own, on the CPU and in float32: the same seed gives the same tokens for the same logits,
whatever other requests do. It knows nothing of text, and of models only their logits.
"""

from __future__ import annotations

from collections import Counter

import torch

from engine.errors import Unavailable
from engine.model_operations import Sampling

SEEDS = 1 << 63
LEAST_TEMPERATURE = 1e-5  # below it logits overflow, and nothing but the likeliest is left


class Chooser:
    """Chooses the tokens of one reply."""

    done = False  # a reply ends by a token of the model, or where its bound is

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._said: Counter[int] = Counter()
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed % SEEDS)

    def choose(self, logits: torch.Tensor) -> int:
        """The next token, from logits [vocabulary]. It counts as said from now on.

        Raises:
            Unavailable: the logits are no numbers, as when float16 overflows.
        """
        sampling = self._sampling
        greedy = sampling.temperature < LEAST_TEMPERATURE
        if not (greedy and not self._penalises):
            logits = logits.to(device="cpu", dtype=torch.float32)
        if not bool(torch.isfinite(logits.max())):
            raise Unavailable("the model gave no numbers: load it with another dtype (MEMOS_MODEL_DTYPE=float32)")
        logits = self._penalised(logits)
        token = int(logits.argmax()) if greedy else self._drawn(logits / sampling.temperature)
        self._said[token] += 1
        return token

    @property
    def _penalises(self) -> bool:
        return bool(self._sampling.presence_penalty or self._sampling.frequency_penalty)

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        """As OpenAI's API has it: a fixed penalty for what was said, and one for each time it was."""
        if not (self._penalises and self._said):
            return logits
        said = torch.tensor(list(self._said))
        times = torch.tensor(list(self._said.values()), dtype=torch.float32)
        penalty = self._sampling.presence_penalty + self._sampling.frequency_penalty * times
        return logits.index_add(0, said, -penalty)

    def _drawn(self, logits: torch.Tensor) -> int:
        """One of the `top_k` likeliest (0: all), of those the likeliest that together reach `top_p`."""
        most = min(self._sampling.top_k, len(logits)) if self._sampling.top_k > 0 else len(logits)
        likely, tokens = logits.topk(most)
        shares = likely.softmax(0)
        if self._sampling.top_p < 1:
            before = shares.cumsum(0) - shares
            shares = shares.where((before < self._sampling.top_p) | (before <= 0), 0.0)
        return int(tokens[torch.multinomial(shares, 1, generator=self._generator)])
