"""One cube's index: filters, neighbours, snapshots, and that erased memories leave nothing behind."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubes import Kind, Mention, State
from engine.index.cube_index import CubeIndex, Entry, Filter, Hits, Question
from engine.index.snapshot import SnapshotUnusable
from engine.index.vectors import Floats
from engine.text.words import stems

START = datetime(2025, 3, 1, 12, tzinfo=UTC)
ANY = Filter()
FACTS = {"cube": "c", "embedder": "e"}
DIMENSION = 4
TEXTS = (
    "The dentist is on Tuesday",
    "When is it?",
    "At noon, near the harbour",
    "Our boat is called Aurora",
    "She paints the harbour at dawn",
    "",
)


def entry(label: int, content: str = "", **changes: object) -> Entry:
    made = Entry(
        label=label,
        id=f"m_{label}",
        kind=Kind.MESSAGE,
        state=State.ACTIVATED,
        tags=(),
        created_at=START + timedelta(hours=label),
        occurred_at=None,
        expires_at=None,
        mentions=(),
        actor=None,
        role=None,
        session=None,
        position=None,
        content=content or TEXTS[label % len(TEXTS)],
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def vectors(label: int, count: int = 1) -> Floats:
    return np.random.default_rng(label).normal(size=(count, DIMENSION)).astype(np.float32)


def ask(index: CubeIndex, query: str = "", vector: Floats | None = None, wanted: Filter = ANY, **more: object) -> Hits:
    found = tuple(dict.fromkeys(stems(query)))
    counts = index.counts(found)
    return index.search(Question(found, counts.idf(), counts.average_length, vector, wanted, **more))  # type: ignore[arg-type]


def by_words(index: CubeIndex, query: str, wanted: Filter = ANY) -> set[int]:
    found = ask(index, query, wanted=wanted)
    return set(found.label[found.words > 0].tolist())


def same(ours: Hits, theirs: Hits) -> None:
    for name in Hits.__slots__:
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name


def test_a_memory_is_found_by_its_words_and_by_its_meaning() -> None:
    index = CubeIndex(DIMENSION)
    for label in range(5):
        index.apply(entry(label), vectors(label))
    assert by_words(index, "the boats") == {3}
    near = ask(index, vector=vectors(2)[0])
    assert near.label[np.argmax(near.nearest)] == 2
    assert near.whole.max() == pytest.approx(1, abs=1e-5)


def test_a_long_memory_is_as_near_as_its_nearest_passage() -> None:
    index = CubeIndex(DIMENSION)
    passages = vectors(9, count=3)
    index.apply(entry(1), passages)
    found = ask(index, vector=passages[2])
    assert found.nearest[0] == pytest.approx(1, abs=1e-5)
    assert found.whole[0] < 0.99


def test_filters_let_pass_what_was_asked_for() -> None:
    index = CubeIndex(None)
    soon, late = START + timedelta(days=1), START + timedelta(days=40)
    spoken = Mention("in June", datetime(2025, 6, 1, tzinfo=UTC), datetime(2025, 7, 1, tzinfo=UTC))
    index.apply(entry(1, "boat", kind=Kind.FACT, tags=("home", "sea")), None)
    index.apply(entry(2, "boat", state=State.ARCHIVED, tags=("sea",)), None)
    index.apply(entry(3, "boat", expires_at=soon), None)
    index.apply(entry(4, "boat", occurred_at=late), None)
    index.apply(entry(5, "boat", mentions=(spoken,)), None)
    assert by_words(index, "boat") == {1, 2, 3, 4, 5}
    assert by_words(index, "boat", Filter(kinds=(Kind.FACT,))) == {1}
    assert by_words(index, "boat", Filter(tags=("sea",))) == {1, 2}
    assert by_words(index, "boat", Filter(tags=("home", "nowhere"))) == {1}
    assert by_words(index, "boat", Filter(tags=("nowhere",))) == set()
    assert by_words(index, "boat", Filter(states=(State.ACTIVATED, State.GENERATED))) == {1, 3, 4, 5}
    assert by_words(index, "boat", Filter(now=soon)) == {1, 2, 4, 5}
    assert by_words(index, "boat", Filter(after=late)) == {4, 5}
    assert by_words(index, "boat", Filter(before=late)) == {1, 2, 3, 5}
    june = datetime(2025, 6, 10, tzinfo=UTC)
    assert by_words(index, "boat", Filter(after=june, before=june + timedelta(days=1))) == {5}


def test_a_large_cube_is_answered_from_the_nearest_passages_as_a_small_one_is() -> None:
    small, large = CubeIndex(DIMENSION), CubeIndex(DIMENSION, exact_limit=5)
    for index in (small, large):
        for label in range(40):
            index.apply(entry(label, tags=("even",) if label % 2 == 0 else ()), vectors(label, 1 + label % 3))
    for wanted in (ANY, Filter(tags=("even",)), Filter(tags=("nowhere",))):
        ours, theirs = (ask(index, "boat", vectors(7)[0], wanted) for index in (small, large))
        shared = np.isin(ours.label, theirs.label)
        assert set(theirs.label) <= set(ours.label)
        assert not ours.label.size or theirs.label.size
        np.testing.assert_allclose(ours.nearest[shared], theirs.nearest, atol=1e-6)
        np.testing.assert_allclose(ours.whole[shared], theirs.whole, atol=1e-6)


def test_a_filter_also_holds_for_meaning() -> None:
    index = CubeIndex(DIMENSION)
    for label in range(40):
        index.apply(entry(label, tags=("even",) if label % 2 == 0 else ()), vectors(label))
    found = ask(index, vector=vectors(7)[0], wanted=Filter(tags=("even",)))
    assert found.label.size
    assert not (found.label % 2).any()


def turns(index: CubeIndex, contents: tuple[str, ...], session: str = "s") -> None:
    for position, content in enumerate(contents):
        index.apply(entry(position + 1, content, session=session, position=position), None)


def test_a_turn_is_found_by_the_words_of_the_turn_before() -> None:
    index = CubeIndex(None)
    turns(index, ("when is the dentist", "tuesday noon", "fine"))
    assert by_words(index, "dentist") == {1, 2}
    assert by_words(index, "tuesday") == {1, 2, 3}


def test_neighbours_stay_right_when_turns_come_late_leave_and_return() -> None:
    index = CubeIndex(None)
    index.apply(entry(2, "tuesday noon", session="s", position=1), None)
    assert by_words(index, "dentist") == set()
    index.apply(entry(1, "when is the dentist", session="s", position=0), None)
    assert by_words(index, "dentist") == {1, 2}
    index.apply(entry(3, "unrelated", session="other", position=1), None)
    assert by_words(index, "dentist") == {1, 2}
    index.remove(1)
    assert by_words(index, "dentist") == set()
    index.apply(entry(4, "when is the dentist", session="s", position=0), None)
    assert by_words(index, "dentist") == {2, 4}


def test_sessions_are_told_apart_in_the_order_in_which_they_began() -> None:
    index = CubeIndex(None)
    for label, (session, day) in enumerate((("b", 2), ("a", 1), ("c", 2), ("a", 3))):
        index.apply(
            entry(label, "boat", session=session, position=label, occurred_at=START + timedelta(days=day)), None
        )
    found = ask(index, "boat")
    began = dict(zip(found.label.tolist(), found.session.tolist(), strict=True))
    assert began[1] == began[3] < began[0] < began[2]
    assert found.sessions.tolist() == sorted({*began.values()})


STEPS = st.lists(
    st.tuples(
        st.integers(0, 9),  # label
        st.sampled_from(["put", "remove"]),
        st.integers(0, len(TEXTS) - 1),
        st.sampled_from([None, "s", "t"]),
        st.integers(0, 3),  # position
        st.integers(0, 3),  # passages
        st.sampled_from([(), ("x",), ("x", "y")]),
        st.sampled_from([None, "Ann", "Bob"]),
    ),
    max_size=30,
)


@settings(max_examples=60)
@given(steps=STEPS)
def test_after_any_changes_it_answers_as_a_fresh_build_and_as_its_snapshot(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, str, int, str | None, int, int, tuple[str, ...], str]],
) -> None:
    index, held = CubeIndex(DIMENSION), dict[int, tuple[Entry, Floats]]()
    for label, step, text, session, position, count, tags, actor in steps:
        if step == "remove":
            index.remove(label)
            held.pop(label, None)
            continue
        spoken = (Mention("then", START, START + timedelta(days=text + 1)),) if text % 2 else ()
        made = entry(
            label,
            TEXTS[text] or "words",
            session=session,
            position=position,
            tags=tags,
            actor=actor,
            role="user" if text % 3 else "assistant",
            mentions=spoken,
        )
        held[label] = made, vectors(label * 10 + text, count)
        index.apply(*held[label])
    fresh = CubeIndex(DIMENSION)
    for label in sorted(held):
        fresh.apply(*held[label])
    folder = tmp_path_factory.mktemp("index")
    index.save(folder, 7, FACTS)
    loaded, revision = CubeIndex.load(folder, FACTS)
    assert revision == 7
    for wanted in (Filter(), Filter(tags=("y",)), Filter(after=START, before=START + timedelta(hours=3))):
        for query in ("dentist harbour boat", "when noon"):
            for vector in (None, vectors(3)[0]):
                answers = [
                    ask(each, query, vector, wanted, speakers=("Ann",), period=(0, 10**16))
                    for each in (index, fresh, loaded)
                ]
                for other in answers[1:]:
                    np.testing.assert_allclose(answers[0].nearest, other.nearest, atol=1e-6)
                    np.testing.assert_allclose(answers[0].whole, other.whole, atol=1e-6)
                    same(replace(answers[0], nearest=other.nearest, whole=other.whole), other)
    loaded.apply(entry(50, "one more boat"), vectors(50))
    assert 50 in by_words(loaded, "boat")


def test_a_snapshot_holds_no_content_and_nothing_of_what_was_removed(tmp_path: Path) -> None:
    index = CubeIndex(DIMENSION)
    index.apply(entry(1, "The dentist is on Tuesday", tags=("kept",)), vectors(1))
    gone = entry(2, "Zanzibar password is swordfish", session="hidden-session", position=0, tags=("hidden-tag",))
    index.apply(replace(gone, actor="Hidden Actor", role="user"), vectors(2))
    index.remove(2)
    index.save(tmp_path, 1, FACTS)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()).lower()
    for word in (b"zanzibar", b"swordfish", b"hidden", b"m_2", b"the dentist is"):
        assert word not in written
    assert b"dentist" in written
    assert vectors(2)[0].tobytes() not in written


def test_a_snapshot_made_under_other_facts_is_refused(tmp_path: Path) -> None:
    index = CubeIndex(DIMENSION)
    index.apply(entry(1), vectors(1))
    index.save(tmp_path, 1, FACTS)
    with pytest.raises(SnapshotUnusable):
        CubeIndex.load(tmp_path, {**FACTS, "embedder": "another"})
    with pytest.raises(SnapshotUnusable):
        CubeIndex.load(tmp_path / "nowhere", FACTS)


def test_a_replaced_memory_forgets_its_old_words_and_vectors() -> None:
    index = CubeIndex(DIMENSION)
    index.apply(entry(1, "boat"), vectors(1, count=3))
    index.apply(entry(1, "train"), None)
    assert by_words(index, "boat") == set()
    assert by_words(index, "train") == {1}
    assert ask(index, vector=vectors(1)[0]).label.size == 0
    assert len(index) == 1


def test_removing_what_is_not_there_changes_nothing() -> None:
    index = CubeIndex(DIMENSION)
    index.remove(99)
    assert len(index) == 0
    assert ask(index, "boat", vectors(1)[0]).label.size == 0


def test_what_an_index_says_of_its_memories() -> None:
    index = CubeIndex(None)
    turns(index, ("when is the dentist", "tuesday noon", "fine"))
    first, second, missing = index.facts([1, 2, 77], ["dentist", "tuesday"])
    assert first is not None
    assert second is not None
    assert (first.id, first.held, first.beside) == ("m_1", ("dentist",), ("m_2",))
    assert (second.held, second.beside) == (("tuesday",), ("m_1", "m_3"))
    assert missing is None


def test_readers_and_a_writer_do_not_disturb_each_other() -> None:
    index = CubeIndex(DIMENSION)
    for label in range(50):
        index.apply(entry(label, "boat"), vectors(label))
    wrong: list[object] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            found = ask(index, "boat", vectors(3)[0])
            if len(found.label) < 40 or len({len(getattr(found, name)) for name in ("label", "words", "nearest")}) != 1:
                wrong.append(found)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for round_ in range(100):
        label = round_ % 10
        index.remove(label)
        index.apply(entry(label, "boat"), vectors(label))
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong
