from __future__ import annotations

from collections import Counter

import pytest
import torch

from engine.errors import Unavailable
from engine.model.sampling import Chooser
from engine.model_operations import Sampling

DRAWS = 4_000


def logits(words: int = 50, seed: int = 0) -> torch.Tensor:
    return torch.randn(words, generator=torch.Generator().manual_seed(seed)) * 2


def drawn(given: torch.Tensor, draws: int = DRAWS, **sampling: float) -> Counter[int]:
    chooser = Chooser(Sampling(**{"seed": 1, "temperature": 1.0, **sampling}))  # type: ignore[arg-type]
    return Counter(chooser.choose(given) for _ in range(draws))


def test_temperature_zero_takes_the_likeliest() -> None:
    given = logits()
    for temperature in (0.0, 1e-40):
        assert set(drawn(given, 20, temperature=temperature)) == {int(given.argmax())}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature: float) -> None:
    given = logits(8)
    shares = (given / temperature).softmax(0)
    seen = drawn(given, temperature=temperature)
    assert max(abs(seen[token] / DRAWS - float(shares[token])) for token in range(8)) < 0.03


def test_top_k_keeps_the_likeliest_tokens() -> None:
    given = logits()
    assert set(drawn(given, top_k=3, temperature=3.0)) == set(given.topk(3).indices.tolist())
    assert set(drawn(given, 50, top_k=1)) == {int(given.argmax())}
    assert len(drawn(given, top_k=1_000, temperature=3.0)) > 40


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    given = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    for top_p, kept in (
        (0.0, {0}),
        (0.4, {0}),
        (0.6, {0, 1}),
        (0.9, {0, 1, 2}),
        (0.97, {0, 1, 2, 3}),
        (1.0, {0, 1, 2, 3}),
    ):
        assert set(drawn(given, 500, top_p=top_p)) == kept


def test_a_presence_penalty_keeps_a_reply_from_saying_a_token_again() -> None:
    assert max(drawn(logits(), 50, temperature=0.0, presence_penalty=100.0).values()) == 1


def test_a_frequency_penalty_grows_with_each_time() -> None:
    seen = drawn(torch.tensor([3.0, 0.0, -100.0]), 30, temperature=0.0, frequency_penalty=1.0)
    assert (seen[0], seen[1], seen[2]) == (17, 13, 0)  # 3 - 17 < 0 - 13


def test_a_seed_gives_the_same_tokens_whatever_else_is_drawn() -> None:
    given = logits()
    alone, beside, other = (Chooser(Sampling(seed=seed, temperature=1.0)) for seed in (7, 7, 8))
    first = [alone.choose(given) for _ in range(40)]
    second = []
    for _ in range(40):
        other.choose(given)
        torch.rand(3)
        second.append(beside.choose(given))
    assert first == second
    assert first != [Chooser(Sampling(seed=8, temperature=1.0)).choose(given) for _ in range(40)]


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63, 2**70, 0])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    given = logits()
    one, same = (Chooser(Sampling(seed=seed, temperature=1.0)) for _ in range(2))
    assert [one.choose(given) for _ in range(5)] == [same.choose(given) for _ in range(5)]


def test_without_a_seed_replies_differ() -> None:
    given = torch.zeros(1_000)
    one, other = (Chooser(Sampling(temperature=1.0)) for _ in range(2))
    assert [one.choose(given) for _ in range(8)] != [other.choose(given) for _ in range(8)]


def test_excluded_tokens_are_never_drawn_and_half_precision_serves() -> None:
    given = logits().to(torch.bfloat16)
    given[:40] = float("-inf")
    assert min(drawn(given, 500)) >= 40


@pytest.mark.parametrize("wrong", ["nan", "inf"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_said_to_be(temperature: float, wrong: str) -> None:
    given = logits()
    given[3] = float(wrong)
    with pytest.raises(Unavailable, match="MEMOS_MODEL_DTYPE"):
        Chooser(Sampling(temperature=temperature)).choose(given)
