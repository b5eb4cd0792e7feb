"""What an adapter knows comes back as text, with a confidence that means something."""

from __future__ import annotations

import pytest

from engine.errors import NotFound
from engine.tiers.lora.asking import finished
from engine.tiers.lora.distil import Plan, adapter_config
from engine.tiers.lora.probing import Calibration, calibration_error, probing
from engine.tiers.lora.serving import Resident
from tests.engine.tiers.lora.conftest import Trained
from tests.models.facts import NAMES
from tests.models.questions import EveryKey


def test_the_distilled_facts_come_back_as_text(resident: Resident, first: Trained):
    resident.load("of-first", first.folder)
    about = first.questions.by_id.values()
    names = sorted({*(fact.name for fact in about), *NAMES[:40]})
    found = finished(probing(resident, "of-first", EveryKey(names)))
    truth = {f"{fact.name} {fact.about}": fact.value for fact in about}
    right = [one for one in found if truth.get(one.key) == one.answer]
    assert len(right) >= 0.9 * len(truth)
    assert len(found) - len(right) <= 1
    assert all(one.answer in one.text and one.margin >= 1 and 0.7 <= one.confidence <= 1 for one in found)
    assert [one.confidence for one in found] == sorted((one.confidence for one in found), reverse=True)


def test_an_adapter_that_says_what_the_base_says_gives_nothing_back(resident: Resident):
    resident.add("fresh-one", adapter_config(Plan()))
    assert finished(probing(resident, "fresh-one", EveryKey(NAMES[:10]))) == []


def test_an_adapter_that_is_not_there_is_refused(resident: Resident):
    with pytest.raises(NotFound):
        finished(probing(resident, "no-such", EveryKey(NAMES[:1])))


def test_confidence_grows_with_sureness_and_falls_behind_who_says_the_same():
    calibration = Calibration()
    assert calibration.confidence(4.0, -2.0) < calibration.confidence(4.0) < calibration.confidence(5.0)
    assert 0 < calibration.confidence(-14.0, -28.0) < calibration.confidence(14.0) < 1


def test_calibration_error_is_the_distance_of_confidence_from_being_right():
    assert calibration_error([(0.75, True), (0.75, True), (0.75, True), (0.75, False)]) == pytest.approx(0.0)
    assert calibration_error([(0.95, False), (0.95, False)]) == pytest.approx(0.95)
    assert calibration_error([]) == 0.0
