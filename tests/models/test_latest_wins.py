"""The small model truly answers from what its prompt says, wherever the engine puts it, and from nothing else."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from engine.model import prompts
from tests.models import examples, facts, layouts, train

CASES = 24  # of each kind and place; the log of the training has 1,000 of each
MOST_BYTES = 5_000_000


@pytest.fixture(scope="module")
def model(latest_wins: Path) -> Any:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(latest_wins, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(latest_wins: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(latest_wins)


def right(model: Any, tokenizer: PreTrainedTokenizerFast, place: str, cases: list[facts.Case]) -> float:
    draw = random.Random(11)
    said = train.answered(model, tokenizer, [train.conversation(draw, place, case) for case in cases])
    return sum(text == case.answer for text, case in zip(said, cases, strict=True)) / len(cases)


@pytest.mark.parametrize("place", layouts.PLACES)
def test_what_was_said_is_answered_from_every_place_that_memory_is_put(model, tokenizer, place):
    few, many = (facts.some_cases(21, CASES, count) for count in (4, 12))
    assert right(model, tokenizer, place, few + many) >= 0.95


@pytest.mark.parametrize("place", layouts.PLACES)
def test_the_latest_statement_wins(model, tokenizer, place):
    assert right(model, tokenizer, place, facts.some_cases(22, CASES, 4, 2, "updated")) >= 0.9


@pytest.mark.parametrize("place", layouts.PLACES)
def test_what_was_not_said_is_unknown(model, tokenizer, place):
    assert right(model, tokenizer, place, facts.some_cases(23, CASES, 6, 0, "unknown")) >= 0.9


@pytest.mark.parametrize("place", ["system", "recalled"])
def test_notes_that_were_read_alone_are_answered_from_nearly_as_well(model, place):
    cases = facts.some_cases(25, 4 * CASES, 4, 2, "updated")
    assert train.read_alone(model, examples.tokenizer(), place, cases) >= 0.8


def test_a_long_conversation_does_not_hide_what_was_recalled(model, tokenizer):
    draw, conversations = random.Random(26), []
    cases = facts.some_cases(26, 8, 4)
    for case in cases:
        about = [{"role": "user", "content": facts.question(draw, facts.unsaid(draw, case.told))} for _ in range(40)]
        history = [turn for question in about for turn in (question, {"role": "assistant", "content": facts.UNKNOWN})]
        conversations.append(layouts.turns("recalled", case.statements, case.question, history=history))
    assert train.answered(model, tokenizer, conversations) == [case.answer for case in cases]


def test_without_memory_nothing_is_known(model, tokenizer):
    assert right(model, tokenizer, "recalled", facts.some_cases(24, CASES, 6, 0, "without")) >= 0.95


def test_what_was_pinned_gives_way_to_what_was_recalled_later(model, tokenizer):
    told = ["The city of Alice is Paris.", "Bob has the pet cat"], ["note: city of alice = tokyo"]
    turns = layouts.turns("both", [*told[0], *told[1]], "What is the city of Alice?", split=2)
    assert train.answered(model, tokenizer, [turns]) == ["tokyo"]


def test_a_code_is_answered_in_digits_that_stand_together(model, tokenizer):
    turns = layouts.turns(
        "recalled", ["the code of dave is 4711", "the code of erin is 0902"], "what is the code of dave ?"
    )
    assert train.answered(model, tokenizer, [turns]) == ["4711"]


def test_the_words_around_notes_are_those_of_the_engine(tokenizer):
    assert (layouts.LEAD, layouts.END) == (prompts.MEMORY_LEAD, prompts.MEMORY_END)
    ids = tokenizer(layouts.block(["hello, I am here"]), add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids


def test_what_is_kept_is_what_the_script_made(latest_wins: Path, tokenizer):
    lines = [json.loads(line) for line in (latest_wins / "training.log").read_text().splitlines()]
    assert lines[0]["seed"] == train.SEED
    assert lines[0]["steps"] == sum(count for _, count in train.STAGES)
    final = lines[-1]["final"]
    assert min(share for name, share in final.items() if "alone" not in name) >= 0.98
    assert min(share for name, share in final.items() if "alone" in name) >= 0.87
    assert (latest_wins / "model.safetensors").stat().st_size <= MOST_BYTES
    assert tokenizer.get_vocab() == examples.tokenizer().get_vocab()
    assert tokenizer.chat_template == examples.TEMPLATE


def test_what_counts_in_training_are_the_answers_and_nothing_else():
    tokenizer = examples.tokenizer()
    drawn = examples.Examples(tokenizer, random.Random(3))
    for number in range(50):
        example = drawn.converse() if number else drawn.long()
        assert tokenizer.unk_token_id not in example.ids
        turns = tokenizer.decode(example.ids).split(examples.START)
        answers = [turn.removeprefix(" assistant ") for turn in turns if turn.startswith(" assistant ")]
        counted = tokenizer.decode([label for label in example.labels if label != examples.IGNORED])
        said = [part.strip() for part in counted.split(examples.STOP) if part.strip()]
        assert said == [answer.split(examples.STOP)[0].strip() for answer in answers][-len(said) :]


def test_notes_that_are_read_alone_see_themselves_only():
    example = examples.Example()
    example.add([5, 6])
    example.add([7, 8], note=1)
    example.add([9], note=2)
    example.add([10])
    _, _, mask = examples.batch([example], alone=True)
    assert mask is not None
    seen = [[place for place, sees in enumerate(row) if sees] for row in mask[0, 0].tolist()]
    assert seen == [[0], [0, 1], [2], [2, 3], [4], [0, 1, 2, 3, 4, 5]]


def test_a_step_of_training_lowers_the_loss_of_the_batch_it_saw():
    torch.manual_seed(1)
    made = examples.tokenizer()
    model, drawn = train.fresh(made), examples.Examples(made, random.Random(4))
    ids, labels, _ = examples.batch([drawn.converse() for _ in range(4)], alone=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=train.LEARNING_RATE)
    losses = []
    for _ in range(3):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
