"""The form of each recalled memory follows from cost, measured divergence, and whether memories are about one thing."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from engine.answering.forms import Candidate, choose, entangled, left_out, same_matter, saved_tokens
from engine.model_operations import Form, Tier

ALL = (Tier.TEXT, Tier.KV, Tier.LORA)
BIRDS = Candidate("m_1", "Swifts spend ten months of the year in the air.", 200, True, 0.01)
TRAINS = Candidate("m_2", "The night train to Vienna leaves from platform nine.", 200, True, 0.01)


def chosen(
    *candidates: Candidate, pinned: tuple[Candidate, ...] = (), tiers: tuple[Tier, ...] = ALL, share: float = 0.5
):
    return choose(candidates, pinned, tiers, share=share, bound=0.05, refusal=None)


def test_chunks_are_taken_where_they_save_prefill():
    assert set(chosen(BIRDS, TRAINS).forms.values()) == {Form.CHUNK}


def test_short_memories_are_read_as_text_unless_only_kv_is_asked_for():
    short = [replace(candidate, tokens=12) for candidate in (BIRDS, TRAINS)]
    assert saved_tokens(short, 0.5) < 0
    assert set(chosen(*short).forms.values()) == {Form.TEXT}
    assert set(chosen(*short, tiers=(Tier.KV,)).forms.values()) == {Form.CHUNK}


def test_without_the_kv_tier_everything_is_text():
    assert set(chosen(BIRDS, TRAINS, tiers=(Tier.TEXT,)).forms.values()) == {Form.TEXT}


def test_a_chunk_over_the_bound_is_not_used_and_that_is_said():
    choice = chosen(replace(BIRDS, divergence=0.2), TRAINS)
    assert choice.forms == {"m_1": Form.TEXT, "m_2": Form.CHUNK}
    assert "m_1 diverges by 0.200 nats, more than 0.05" in choice.remarks[0]


def test_a_chunk_of_unknown_divergence_is_not_used():
    assert chosen(replace(BIRDS, divergence=None), TRAINS).forms["m_1"] is Form.TEXT


def test_a_chunk_that_is_not_there_is_wanted():
    choice = chosen(replace(BIRDS, has_chunk=False, divergence=None), TRAINS)
    assert choice.wanted == ("m_1",)
    assert choice.forms["m_1"] is Form.TEXT


def test_no_chunk_of_a_short_memory_is_wanted_unless_only_kv_is_asked_for():
    short = replace(BIRDS, has_chunk=False, tokens=12)
    assert chosen(short).wanted == ()
    assert chosen(short, tiers=(Tier.KV,)).wanted == ("m_1",)


def test_what_is_refused_is_said():
    choice = choose([BIRDS], [], ALL, share=0.5, bound=0.05, refusal="gemma3 keeps a window of its cache")
    assert choice.forms == {"m_1": Form.TEXT}
    assert choice.remarks == ("gemma3 keeps a window of its cache",)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("the city of alice is paris", "alice has the city rome"),
        ("My dentist is Dr Okafor.", "The dentist is Dr Lund now."),
    ],
)
def test_texts_about_one_thing_are_known_in_other_words(a: str, b: str):
    assert same_matter(a, b)


def test_updates_take_the_exact_form():
    old = replace(BIRDS, text="the city of alice is paris")
    new = replace(TRAINS, text="alice has the city rome")
    choice = chosen(old, new)
    assert set(choice.forms.values()) == {Form.TEXT}
    assert "exact form" in choice.remarks[0]


def test_an_update_of_a_pinned_memory_takes_the_exact_form():
    pinned = replace(BIRDS, id="m_9", text="The night train to Vienna is cancelled.")
    assert set(chosen(TRAINS, pinned=(pinned,)).forms.values()) == {Form.TEXT}


def test_rivals_that_the_vault_knows_are_entangled_whatever_their_words():
    assert entangled([BIRDS, replace(TRAINS, rivals=frozenset({"m_1"}))])
    assert not entangled([BIRDS, TRAINS])


def test_many_pinned_memories_are_compared_in_no_time():
    def all_different(name: str, count: int) -> list[Candidate]:
        texts = (" ".join(f"{name}{number}x{word}" for word in range(300)) for number in range(count))
        return [Candidate(f"{name}_{number}", text, 400, False) for number, text in enumerate(texts)]

    recalled, pinned = all_different("r", 20), all_different("p", 200)
    started = time.thread_time()
    assert not entangled(recalled, pinned)
    assert time.thread_time() - started < 2  # of a tenth that it takes; each pair by itself takes ten seconds


def test_what_an_adapter_knows_is_left_out_unless_it_has_to_be_read_beside_something():
    late = replace(TRAINS, id="m_3", text="The night train to Vienna is late.")
    later = replace(TRAINS, id="m_4", text="The night train to Graz is late on Sundays.")
    assert left_out([BIRDS, TRAINS], (), {"m_1", "m_2"}) == {"m_1", "m_2"}
    assert left_out([BIRDS, TRAINS], (), {"m_1"}) == {"m_1"}
    assert left_out([BIRDS, TRAINS], (late,), {"m_1", "m_2"}) == {"m_1"}
    assert left_out([BIRDS, TRAINS, late, later], (), {"m_1", "m_2", "m_3"}) == {"m_1"}  # each brings the next one back
    assert left_out([BIRDS, TRAINS, late, later], (), {"m_1", "m_2", "m_3", "m_4"}) == {"m_1", "m_2", "m_3", "m_4"}


def test_what_updates_or_is_updated_is_always_read():
    update = replace(BIRDS, rivals=frozenset({"m_2"}))
    assert left_out([update, TRAINS], (), {"m_1", "m_2"}) == set()
    assert left_out([TRAINS], (update,), {"m_2"}) == set()
    gone = replace(BIRDS, rivals=frozenset({"m_gone"}))  # what it updates is not among them: nothing to compare with
    assert left_out([gone, TRAINS], (), {"m_1", "m_2"}) == {"m_1", "m_2"}
