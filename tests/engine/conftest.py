"""Stores for tests: one of their own, with or without vectors, and one to read from that a module shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.memos import MemOS
from engine.settings import Settings
from tests.conftest import HandClock
from tests.engine.stores import opened, plain_only, settings_for, with_vectors

# Where every store is encrypted (MEMOS_TEST_SEALED=1), these have nothing to look at, or count rows of the audit log.
PLAIN_ONLY = (
    "governance/test_audit.py::",
    "test_indexer.py::",
    "test_damage.py::test_a_flipped_byte_is_never_a_wrong_answer",
    "test_damage.py::test_damage_that_opening_does_not_meet_is_found_by_verifying",
    "test_damage.py::test_tampering_with_the_audit_log_is_found_and_located",
    "test_damage.py::test_an_audit_log_whose_end_was_cut_off_is_found",
    "test_forget.py::test_erasing_leaves_no_word_in_any_file_of_the_data_folder",
    "test_forget.py::test_a_reason_that_repeats_the_content_is_withheld",
    "test_forget.py::test_an_erasure_whose_process_was_killed_is_finished_at_the_next_start",
    "test_governing.py::test_governing_makes_a_version_with_author_reason_and_audit_row",
    "test_released_stores.py::",
    "test_remember.py::test_bad_input_is_one_clear_error_and_changes_nothing",
    "test_upkeep.py::test_a_backup_is_made_once_a_day_if_something_changed_and_the_newest_are_kept",
    "test_upkeep.py::test_status_says_what_is_there",
    "test_vault.py::test_many_threads_store_everything_and_count_without_a_gap",
    "test_vault.py::test_a_backup_holds_everything_and_is_refused_where_something_lies",
    "test_vault.py::test_a_data_folder_that_cannot_be_made_is_unavailable_and_named",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.nodeid.startswith(f"tests/engine/{name}") for name in PLAIN_ONLY):
            item.add_marker(plain_only)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path / "data")


@pytest.fixture
def memos(settings: Settings, clock: HandClock) -> Iterator[MemOS]:
    """A store that finds by words alone: for what does not depend on vectors."""
    with opened(settings, clock) as store:
        yield store


@pytest.fixture
def dense(settings: Settings, clock: HandClock) -> Iterator[MemOS]:
    """A store with the default embedder."""
    with opened(with_vectors(settings), clock) as store:
        yield store
