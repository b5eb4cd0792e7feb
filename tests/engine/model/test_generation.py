from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import Invalid, TooLarge
from engine.model.generation import LENGTH, STOP, Step, end_tokens, generate
from engine.model.tokens import Spelling
from engine.model_operations import Sampling
from engine.tiers.kv.tensors import WorkingCache
from tests.engine.model import small

SEEDS = (0, 1, 2)
GREEDY = Sampling(max_tokens=64, temperature=0)
WARM = Sampling(max_tokens=40, temperature=1.0, seed=5)


def prompt(loaded: small.Small, tokens: int = 40, seed: int = 0) -> list[int]:
    words = [id for id in range(len(loaded.tokenizer)) if id not in end_tokens(loaded)]
    return random.Random(seed).choices(words, k=tokens)


def reply(loaded: small.Small, ids: list[int], sampling: Sampling, **how: int) -> list[Step]:
    return list(generate(loaded, ids, WorkingCache(loaded.model.config), sampling, **how))


def text_of(steps: list[Step]) -> str:
    return "".join(step.text for step in steps)


def tokens_of(steps: list[Step]) -> list[int]:
    return [step.token for step in steps if step.token is not None]


def endless(loaded: small.Small) -> small.Small:
    """The same with a head that never says a token that ends."""
    loaded.model.get_output_embeddings().weight.data[list(end_tokens(loaded))] = 0.0
    return loaded


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
def test_greedy_replies_equal_those_of_the_library(kind: str, seed: int) -> None:
    loaded = small.loaded(kind, seed=seed)
    ids = prompt(loaded, seed=seed)
    with torch.inference_mode():
        expected = loaded.model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), do_sample=False, max_new_tokens=64,
            eos_token_id=list(end_tokens(loaded)), pad_token_id=0,
        )[0, len(ids) :]  # fmt: skip
    for piece_tokens in (1, 7, 512):
        steps = reply(loaded, ids, GREEDY, piece_tokens=piece_tokens)
        assert tokens_of(steps) == expected.tolist()
        assert [step.done for step in steps if step.done] == [STOP if len(expected) < 64 else LENGTH]


@pytest.mark.parametrize("held", [1, 17, 39, 40])
def test_a_reply_is_the_same_behind_a_cache_that_is_partly_there(held: int) -> None:
    loaded = small.loaded()
    ids = prompt(loaded)
    cold = WorkingCache(loaded.model.config)
    expected = tokens_of(list(generate(loaded, ids, cold, GREEDY)))
    warm = WorkingCache(loaded.model.config)
    warm.append(cold.taken(0, held))
    assert tokens_of(list(generate(loaded, ids, warm, GREEDY))) == expected


def test_the_cache_holds_all_but_the_last_token_at_the_end() -> None:
    loaded = endless(small.loaded())
    cache = WorkingCache(loaded.model.config)
    list(generate(loaded, prompt(loaded), cache, replace(GREEDY, max_tokens=10)))
    assert cache.tokens == 40 + 9


def test_a_prefill_gives_others_their_turn_after_each_piece() -> None:
    loaded = small.loaded()
    steps = reply(loaded, prompt(loaded), replace(GREEDY, max_tokens=1), piece_tokens=16)
    assert steps[:2] == [Step(), Step()]
    assert len(steps) == 3


def test_logits_are_computed_for_the_last_token_of_a_piece_only() -> None:
    loaded, rows = small.loaded(), []
    hook = loaded.model.lm_head.register_forward_hook(lambda _, given, __: rows.append(given[0].shape[1]))
    reply(loaded, prompt(loaded), replace(GREEDY, max_tokens=3), piece_tokens=16)
    hook.remove()
    assert set(rows) == {1}


def test_a_bound_ends_a_reply_for_its_length() -> None:
    loaded = endless(small.loaded())
    steps = reply(loaded, prompt(loaded), replace(GREEDY, max_tokens=5))
    assert (len(tokens_of(steps)), steps[-1].done) == (5, LENGTH)


def test_the_context_ends_a_reply_for_its_length() -> None:
    loaded = endless(small.loaded(context=48))
    steps = reply(loaded, prompt(loaded), GREEDY)
    assert (len(tokens_of(steps)), steps[-1].done) == (8, LENGTH)
    with pytest.raises(TooLarge, match="shorten"):
        reply(loaded, prompt(loaded, 48), GREEDY)


def test_there_must_be_something_to_continue() -> None:
    with pytest.raises(Invalid):
        reply(small.loaded(), [], GREEDY)


def test_tokens_that_end_come_from_settings_tokenizer_and_template() -> None:
    loaded = small.loaded(template=small.GEMMA, seed=11)
    ids = {
        word: loaded.tokenizer.convert_tokens_to_ids(word) for word in ("<|im_end|>", "<end_of_turn>", "</s>", "<s>")
    }
    assert end_tokens(loaded) == {ids["<|im_end|>"], ids["<end_of_turn>"]}
    loaded.model.generation_config.eos_token_id = [ids["</s>"], ids["<s>"]]
    assert end_tokens(loaded) == set(ids.values())


def test_each_of_several_ending_tokens_ends_a_reply() -> None:
    loaded = endless(small.loaded(seed=12))
    ids = prompt(loaded)
    free = tokens_of(reply(loaded, ids, GREEDY))
    for place in (0, 3, 20):
        loaded.model.generation_config.eos_token_id = [1, free[place]]
        steps = reply(loaded, ids, GREEDY)
        end = free.index(free[place])
        assert tokens_of(steps) == free[: end + 1]
        assert steps[-1].done == STOP
        assert text_of(steps) == spelled(loaded, free[:end])
    loaded.model.generation_config.eos_token_id = None


def spelled(loaded: small.Small, ids: list[int]) -> str:
    whole = loaded.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(whole).rstrip("\ufffd")


@pytest.mark.parametrize("tokenizer", ["bytes", "pieces", "words"])
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_the_text_is_that_of_all_tokens_together(kind: str, tokenizer: str) -> None:
    loaded = endless(small.loaded(kind, tokenizer, seed=3))
    steps = reply(loaded, prompt(loaded), WARM)
    if tokenizer != "pieces":  # there, one wrong byte spoils whole runs of bytes when they are decoded together
        assert text_of(steps) == spelled(loaded, tokens_of(steps))
    assert len(tokens_of(steps)) == 40


def test_a_seed_gives_the_same_reply_whatever_goes_on_beside_it() -> None:
    loaded = small.loaded()
    alone = reply(loaded, prompt(loaded), WARM)
    beside = generate(loaded, prompt(loaded, seed=9), WorkingCache(loaded.model.config), replace(WARM, seed=6))
    again = list[Step]()
    for step in generate(loaded, prompt(loaded), WorkingCache(loaded.model.config), WARM):
        next(beside, None)
        again.append(step)
    assert again == alone
    assert tokens_of(reply(loaded, prompt(loaded), replace(WARM, seed=6))) != tokens_of(alone)


@pytest.mark.parametrize("tokenizer", ["bytes", "words"])
def test_stop_strings_are_never_shown_and_end_the_reply(tokenizer: str) -> None:
    loaded = endless(small.loaded(tokenizer=tokenizer, seed=4))
    ids, draw = prompt(loaded), random.Random(3)
    free = text_of(reply(loaded, ids, WARM))
    for _ in range(25):
        start = draw.randrange(len(free))
        stop = free[start : start + draw.randint(1, 12)]
        steps = reply(loaded, ids, replace(WARM, stop=("never said at all", stop, "", stop + "\0")))
        assert text_of(steps) == free[: free.index(stop)]
        assert steps[-1].done == STOP
        shown = ""
        for step in steps:
            shown += step.text
            assert free.startswith(shown)


def test_the_beginning_of_a_stop_string_is_shown_when_the_rest_does_not_come() -> None:
    loaded = endless(small.loaded(seed=4))
    free = reply(loaded, prompt(loaded), WARM)
    stops = (text_of(free)[-3:] + "!", text_of(free)[10:14] + "\x00")
    steps = reply(loaded, prompt(loaded), replace(WARM, stop=stops))
    assert (text_of(steps), steps[-1].done) == (text_of(free), LENGTH)


def test_a_model_without_a_template_ends_where_the_person_would_speak() -> None:
    loaded = endless(small.loaded(template=None, seed=6))
    loaded.model.generation_config.eos_token_id = None
    ids = loaded.tokenizer("\nUser: and more", add_special_tokens=False).input_ids
    head = loaded.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda *_: one_of(ids, len(loaded.tokenizer)))
    script = iter(ids)

    def one_of(_: list[int], words: int) -> torch.Tensor:
        scores = torch.zeros(1, 1, words)
        scores[..., next(script)] = 1.0
        return scores

    steps = reply(loaded, prompt(loaded), GREEDY)
    hook.remove()
    assert (text_of(steps), steps[-1].done) == ("", STOP)
    assert len(tokens_of(steps)) < len(ids)


@settings(max_examples=40)
@given(text=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\ufffd▁"), max_size=40))
def test_text_comes_token_by_token_and_never_by_half_characters(text: str) -> None:
    for kind in ("bytes", "pieces"):
        tokenizer = small.tokenizer_of(kind)
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        spelling = Spelling(tokenizer)
        shown = [spelling.add(id) for id in ids]
        assert "".join(shown) == tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert "\ufffd" not in "".join(shown)


@settings(max_examples=60)
@given(data=st.data())
def test_any_bytes_are_spelled_as_their_whole(data: st.DataObject) -> None:
    for kind in ("bytes", "words"):
        tokenizer = small.tokenizer_of(kind)
        ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=60))
        spelling = Spelling(tokenizer)
        whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert "".join([spelling.add(id) for id in ids]) == whole.rstrip("\ufffd")
