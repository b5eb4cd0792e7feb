"""The models of the tests: the small one that answers from its context, and a shape of real size with random weights.

`tests/conftest.py` makes the fixtures known. torch is imported when a model is asked for, not before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

LATEST_WINS = Path(__file__).parent / "latest_wins"


@pytest.fixture(scope="session")
def latest_wins() -> Path:
    """The folder of the trained model. It answers questions about the statements of `tests.models.facts`."""
    return LATEST_WINS


@pytest.fixture(scope="session")
def half_billion() -> Callable[..., Any]:
    """Makes the random-weight model of `half_billion_model` for a torch dtype, once for each."""
    return half_billion_model


@lru_cache(maxsize=1)  # one is 1.5 GB in float32
def half_billion_model(dtype: Any = None) -> Any:
    """The shape of Qwen2.5-0.5B with a smaller vocabulary, which saves memory: what it says means nothing.

    `dtype` None: float32. The same weights each time.
    """
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=32_000,
        hidden_size=896,
        intermediate_size=4_864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=dtype or torch.float32).eval()
