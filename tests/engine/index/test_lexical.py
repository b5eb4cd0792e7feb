"""The lexical index: BM25 over a turn and its neighbours, in step with whatever came and went."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.index.lexical import NEXT_WEIGHT, PREVIOUS_WEIGHT, Lexical

VOCABULARY = [f"stem{number}" for number in range(9)]
DOCUMENTS = st.lists(st.sampled_from(VOCABULARY), max_size=12)
STEPS = st.lists(st.tuples(st.integers(0, 6), st.none() | DOCUMENTS), max_size=40)


def links(count: int, pairs: dict[int, int] | None = None) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """No neighbours, but for `pairs`: turn -> the turn after it."""
    previous, following = np.full((2, count), -1, np.int32)
    for before, after in (pairs or {}).items():
        following[before], previous[after] = after, before
    return previous, following


def scores(lexical: Lexical, query: list[str], count: int, pairs: dict[int, int] | None = None) -> NDArray[np.float32]:
    found = lexical.counts(query)
    return lexical.scores(query, found.idf(), found.average_length, *links(count, pairs))


@given(STEPS)
def test_after_any_changes_it_equals_a_fresh_build(steps: list[tuple[int, list[str] | None]]) -> None:
    lexical, held = Lexical(), dict[int, list[str]]()
    for row, document in steps:
        if document is None:
            lexical.drop(row)
            held.pop(row, None)
        else:
            lexical.put(row, document)
            held[row] = document
    fresh = Lexical()
    for row, document in sorted(held.items()):
        fresh.put(row, document)
    reloaded = Lexical.load(lexical.save())
    for other in (fresh, reloaded):
        assert other.vocabulary == lexical.vocabulary == {stem for document in held.values() for stem in document}
        ours, theirs = lexical.counts(VOCABULARY), other.counts(VOCABULARY)
        assert (ours.documents, ours.length) == (theirs.documents, theirs.length)
        assert np.array_equal(ours.frequencies, theirs.frequencies)
        chain = {row: row + 1 for row in range(6)}
        assert np.array_equal(scores(lexical, VOCABULARY, 7, chain), scores(other, VOCABULARY, 7, chain))
    assert reloaded.save() == lexical.save()


@given(STEPS)
def test_a_reloaded_index_goes_on_changing(steps: list[tuple[int, list[str] | None]]) -> None:
    lexical = Lexical()
    for row in range(7):
        lexical.put(row, VOCABULARY[row:])
    reloaded = Lexical.load(lexical.save())
    for row, document in steps:
        for each in (lexical, reloaded):
            if document is None:
                each.drop(row)
            else:
                each.put(row, document)
    assert np.array_equal(scores(lexical, VOCABULARY, 7), scores(reloaded, VOCABULARY, 7))


def test_a_rare_word_counts_more_than_a_common_one() -> None:
    lexical = Lexical()
    for row in range(10):
        lexical.put(row, ["common", "rare"] if row == 0 else ["common", "filler"])
    found = scores(lexical, ["common", "rare"], 10)
    assert found[0] > 2 * found[1]
    assert np.allclose(found[1:], found[1])


def test_a_shorter_memory_wins_over_a_longer_one_with_the_same_words() -> None:
    lexical = Lexical()
    lexical.put(0, ["boat", *[f"w{number}" for number in range(40)]])
    lexical.put(1, ["boat", "red"])
    found = scores(lexical, ["boat"], 2)
    assert found[1] > found[0] > 0


def test_words_of_the_turns_beside_count_a_little_less() -> None:
    lexical = Lexical()
    for row, document in enumerate((["dentist", "when"], ["tuesday", "noon"], ["thank", "much"])):
        lexical.put(row, document)
    found = scores(lexical, ["dentist"], 3, {0: 1, 1: 2})
    assert found[0] > found[1] > found[2] == 0
    assert 0 < NEXT_WEIGHT < PREVIOUS_WEIGHT < 1


def test_a_neighbour_that_leaves_takes_its_words_along() -> None:
    lexical = Lexical()
    lexical.put(0, ["dentist"])
    lexical.put(1, ["tuesday"])
    assert scores(lexical, ["dentist"], 2, {0: 1})[1] > 0
    lexical.drop(0)
    assert scores(lexical, ["dentist"], 2)[1] == 0


def test_counts_of_several_cubes_add_up() -> None:
    one, two = Lexical(), Lexical()
    one.put(0, ["tea", "cup"])
    two.put(0, ["tea"])
    two.put(1, ["milk"])
    both = one.counts(["tea"]) + two.counts(["tea"])
    assert (both.documents, both.length, both.frequencies.tolist()) == (3, 4, [2])


def test_nothing_of_a_dropped_memory_is_saved() -> None:
    lexical = Lexical()
    lexical.put(0, ["harmless"])
    lexical.put(1, ["secretword", "harmless"])
    lexical.drop(1)
    assert b"secretword" not in lexical.save()
    assert b"harmless" in lexical.save()


def test_an_empty_index_answers_and_survives_a_round_trip() -> None:
    lexical = Lexical.load(Lexical().save())
    assert len(lexical) == 0
    assert scores(lexical, ["anything"], 0).shape == (0,)
    lexical.put(0, [])
    assert len(Lexical.load(lexical.save())) == 1


def test_a_file_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pickled|file"):
        Lexical.load(b"not an archive")
