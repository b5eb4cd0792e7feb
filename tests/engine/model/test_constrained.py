"""Constrained decoding: whatever the model is, what it writes is of the form."""

from __future__ import annotations

import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from engine.errors import Unavailable
from engine.model.constrained import FormChooser, fed, fixed, start
from engine.text.json_forms import Form, List, NotOfForm, Number, Object, Text, Word, parse
from tests.engine.model import small
from tests.models.fixtures import LATEST_WINS

FACTS = Object(
    (
        (
            "facts",
            List(
                Object(
                    (
                        ("turns", List(Number(1, 12), 3, 1)),
                        ("text", Text(30, 1)),
                        ("kind", Word(("fact", "preference", "event"))),
                        ("when", Text(12)),
                    )
                ),
                3,
            ),
        ),
    )
)
MOST_TOKENS = 1_500


def written(tokenizer: PreTrainedTokenizerFast, seed: int, form: Form = FACTS) -> str:
    """What a model of random logits writes."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    chooser = FormChooser(form, tokenizer)
    for _ in range(MOST_TOKENS):
        if chooser.done:
            return chooser.text
        chooser.choose(torch.randn(len(tokenizer), generator=generator))
    raise AssertionError(f"it did not end: {chooser.text}")


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_random_logits_write_json_of_the_form_with_every_kind_of_tokenizer(kind: str) -> None:
    tokenizer = small.tokenizer_of(kind)
    for seed in range(6):
        said = written(tokenizer, seed)
        value = json.loads(said)
        assert parse(FACTS, said) == value


def test_a_vocabulary_that_cannot_spell_json_is_refused_in_words() -> None:
    words = PreTrainedTokenizerFast(tokenizer_file=str(LATEST_WINS / "tokenizer.json"))
    with pytest.raises(Unavailable, match="MEMOS_READER"):
        written(words, 0)


@settings(max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "turns": st.lists(st.integers(1, 12), min_size=1, max_size=3),
                "text": st.text(st.sampled_from('ab "\\\n\t/é🙂'), min_size=1, max_size=20).filter(str.strip),
                "kind": st.sampled_from(["fact", "preference", "event"]),
                "when": st.text(st.sampled_from("ab 1"), max_size=12),
            }
        ),
        max_size=3,
    )
)
def test_everything_of_the_form_can_be_written(facts: list[dict[str, object]]) -> None:
    names = ("turns", "text", "kind", "when")
    said = json.dumps({"facts": [{name: fact[name] for name in names} for fact in facts]}, ensure_ascii=False)
    assert fed(start(FACTS), said) == ()
    assert parse(FACTS, said) == {"facts": facts}


def test_nothing_else_can_be_written() -> None:
    said = '{"facts": [{"turns": [1, 12], "text": "a", "kind": "fact", "when": ""}]}'
    draw = random.Random(0)
    for _ in range(400):
        place, char = draw.randrange(len(said)), draw.choice('{}[],:" 0129abfx\n\\')
        other = said[:place] + char + said[place + draw.randrange(2) :]
        if fed(start(FACTS), other) == ():
            parse(FACTS, other)  # raises where the machine took what the form refuses


@pytest.mark.parametrize(
    "said",
    [
        "no JSON at all",
        "{",
        '{"facts": {}}',
        '{"facts": [{"turns": [], "text": "a", "kind": "fact", "when": ""}]}',
        '{"facts": [{"turns": [13], "text": "a", "kind": "fact", "when": ""}]}',
        '{"facts": [{"turns": [true], "text": "a", "kind": "fact", "when": ""}]}',
        '{"facts": [{"turns": [1], "text": " ", "kind": "fact", "when": ""}]}',
        '{"facts": [{"turns": [1], "text": "a", "kind": "secret", "when": ""}]}',
        '{"facts": [{"turns": [1], "text": "a", "kind": "fact", "when": "", "more": 1}]}',
        '{"facts": [{"turns": [1], "text": "' + "a" * 31 + '", "kind": "fact", "when": ""}]}',
        "[" * 100_000,
    ],
)
def test_a_reply_that_is_not_of_the_form_is_refused_without_being_quoted(said: str) -> None:
    with pytest.raises(NotOfForm) as refused:
        parse(FACTS, said)
    assert "secret" not in str(refused.value)


def test_what_models_put_around_an_answer_is_looked_past() -> None:
    answer = '{"facts": []}'
    for said in (f"<think>maybe {{}}</think>\n{answer}", f"```json\n{answer}\n```", f"Here it is: {answer} Done."):
        assert parse(FACTS, said) == {"facts": []}


def test_what_the_form_fixes_is_not_left_to_the_model() -> None:
    assert fixed(start(FACTS)) == '{"facts": ['
