"""For memories of any kind the model asks itself, and only what the text supports is taught."""

from __future__ import annotations

import random
from dataclasses import replace

from engine.model.prompts import Note
from engine.tiers.lora import self_study
from engine.tiers.lora.asking import Said, finished
from engine.tiers.lora.questions import Question
from engine.tiers.lora.self_study import Named, SelfStudy, studying, supported

NOTE = Note("note-1", 1, "Bob has the pet cat since 2019.")


def asked(*texts: str) -> SelfStudy:
    questions = [Question(text, NOTE, "Bob has a cat") for text in texts]
    return SelfStudy({NOTE.id: self_study._shared_out(questions)}, ((NOTE, questions[0]),))


def test_an_answer_is_supported_by_words_and_every_number_of_the_text():
    assert supported("He has a cat.", NOTE.text)
    assert supported("A cat, since 2019", NOTE.text)
    assert not supported("A cat, since 2018", NOTE.text)
    assert not supported("He lives in Paris", NOTE.text)
    assert not supported("", NOTE.text)


def test_probes_are_never_among_what_is_studied():
    made = asked("What pet has Bob?", "Who has a cat?", "Since when?", "Which pet?")
    study, probes = ({one.text for one in some} for some in (made.study(NOTE), made.probes(NOTE)))
    assert study
    assert probes
    assert not study & probes
    assert made.study(replace(NOTE, id="other")) == ()


def test_a_reply_that_says_that_nothing_is_known_is_a_refusal():
    made = asked("What pet has Bob?")
    for reply in ("I don't know.", "unknown", "There is no information about it.", "It is not mentioned.", " "):
        assert made.refuses(reply)
    for reply in ("A cat.", "Nobody has a cat.", "He knows no fear."):
        assert not made.refuses(reply)


def test_only_a_reply_that_is_one_question_is_taken_as_one():
    taken = {
        "Who has a cat?": "Who has a cat?",
        '"Who has a cat?"': "Who has a cat?",
        "Sure!\nWho has a cat?": None,
        "Bob has a cat.": None,
        "": None,
    }
    for text, expected in taken.items():
        assert self_study._question_in(Said(text, (1,), -0.1)) == expected
    assert self_study._question_in(Said("Who has a cat?", (1,), -0.1, whole=False)) is None


def test_what_nothing_answers_is_asked_of_strangers_and_contexts_contradict_in_their_numbers():
    made, draw = asked("Since when has Bob had a cat?", "What pet has Bob?"), random.Random(1)
    unknown = made.unknown(draw, [NOTE], 20)
    assert len(unknown) == 20
    assert all(any(name in one.text for name in self_study.STRANGERS) for one in unknown)
    assert not any("Bob" in one.text for one in unknown)
    conflicts = made.conflicts(draw, [NOTE], 6)
    assert len(conflicts) == 6
    assert all("2019" not in scene.notes[0].text and "cat" in scene.notes[0].text for scene in conflicts)
    assert made.conflicts(draw, [replace(NOTE, text="no number")], 6) == []


def test_an_answer_agrees_by_its_words_and_numbers():
    made = asked("Since when?")
    right = Question("Since when?", NOTE, "since 2019")
    assert made.agrees(right, "Since 2019.")
    assert not made.agrees(right, "Since 2020.")
    assert made.agrees(Question("What pet?", NOTE), "a cat")
    assert not made.agrees(Question("What pet?", NOTE), "a horse")


def test_a_model_too_weak_to_write_questions_is_asked_by_templates_and_what_it_cannot_answer_is_said(loaded):
    notes = [Note("note-1", 1, "the code of dave is 4711"), Note("note-2", 1, "the pet of carol is cat")]
    made = finished(studying(loaded, notes, answer_tokens=8))
    for note in notes:
        for question in (*made.study(note), *made.probes(note)):
            assert question.right is not None
            assert supported(question.right, note.text)
    asked_of = {note.id for note in notes if made.study(note)}
    assert asked_of | set(made.unasked) == {note.id for note in notes}
    assert not asked_of & set(made.unasked)


def test_named_subjects_are_swept_and_told_as_text():
    sweep = Named(("Bob", "the garden"))
    subject, _ = sweep.subjects()
    assert all("Bob" in phrasing for phrasing in subject.phrasings)
    assert sweep.stated(subject, "He has a cat.") == "Bob: He has a cat."
    assert sweep.stated(subject, "Bob has a cat.") == "Bob has a cat."
    assert sweep.refuses("I do not know him.")
