"""Settings that say nothing that can be done are refused when they are read."""

from __future__ import annotations

import pytest

from engine.errors import Invalid
from engine.settings import settings_from


@pytest.mark.parametrize("reader", ["model", "http://127.0.0.1:11434/v1", "HTTPS://models.example/v1"])
def test_the_local_model_and_servers_are_readers(reader: str) -> None:
    assert settings_from({"MEMOS_READER": reader}).reader == reader
    assert settings_from({"MEMOS_READER": ""}).reader is None


@pytest.mark.parametrize("reader", ["foo", "ftp://key@models.example/v1", "127.0.0.1:11434"])
def test_a_reader_that_is_neither_is_refused_and_no_key_in_it_is_repeated(reader: str) -> None:
    with pytest.raises(Invalid, match=r"MEMOS_READER is .*: use model for the local model, or the URL") as refused:
        settings_from({"MEMOS_READER": reader})
    assert "key" not in str(refused.value)
