"""How a model is called: a folder by its last part, to all but the owner of the store."""

from __future__ import annotations

import pytest

from engine.model_operations import is_called, shown_source

SHOWN = {
    "/srv/models/small": "small",
    "/srv/models/small/": "small",
    "~/models/small": "small",
    "./small": "small",
    "../models/small": "small",
    "models/of/ann/small": "small",
    "C:\\models\\small": "small",
    "/srv/a model.v2": "a model.v2",
    "/": "model",
    "~ann": "model",
    "..": "model",
    "small": "small",
    "Qwen/Qwen3-0.6B": "Qwen/Qwen3-0.6B",
    "http://127.0.0.1:8000/v1/models": "http://127.0.0.1:8000/v1/models",
}


@pytest.mark.parametrize("source", SHOWN)
def test_a_folder_is_shown_to_others_under_its_last_part_and_to_the_owner_whole(source: str) -> None:
    assert shown_source(source, owner=True) == source
    assert shown_source(source, owner=False) == SHOWN[source]
    assert shown_source(SHOWN[source], owner=False) == SHOWN[source]


def test_a_model_is_called_by_either_of_its_names_and_no_other() -> None:
    source = "/srv/models/small"
    assert [is_called(source, name) for name in (source, "small", "models/small", "", "large")] == [
        *(True, True),
        *(False, False, False),
    ]
