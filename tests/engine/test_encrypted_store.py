"""An encrypted store: nothing that was said can be read in any of its files, and it answers as a plain one does.

What the store does in all other respects is asked of it by tests that stand elsewhere, run here on an encrypted store.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.memos import MemOS
from engine.operations import Caller, Fuse, Recall, Remember, Turn
from engine.settings import Settings
from engine.text.words import stems
from engine.vault.encrypting import is_encrypted
from tests.conftest import HandClock
from tests.engine.stores import (
    ME,
    archive,
    encrypted,
    opened,
    say,
    settings_for,
    with_vectors,
)
from tests.engine.test_cube_fusing import (  # noqa: F401
    test_a_conversation_and_a_long_text_stay_whole,
    test_erasing_a_parent_erases_its_copy_in_the_fused_cube,
    test_rivals_of_two_cubes_are_both_kept_linked_and_listed,
)
from tests.engine.test_forget import (  # noqa: F401
    test_an_archived_memory_is_left_out_and_comes_back_when_restored,
    test_an_erased_memory_does_not_come_back_by_importing_it,
    test_erasing_a_parent_erases_what_was_fused_from_it_and_frees_the_others,
    test_erasing_a_piece_blanks_its_words_in_the_whole_and_what_was_read_out_of_them,
    test_forgetting_by_query_shows_first_and_acts_on_the_token_once,
)
from tests.engine.test_governing import (  # noqa: F401
    test_a_cube_is_made_and_changed_with_a_version_each,
    test_the_pieces_of_a_text_are_treated_as_the_whole,
)
from tests.engine.test_history import (  # noqa: F401
    test_an_earlier_content_comes_back_as_a_new_version_and_is_found,
    test_every_change_is_a_version_with_who_when_and_why,
)
from tests.engine.test_operations import (  # noqa: F401
    test_a_request_sent_again_is_answered_from_its_record_and_stores_nothing,
    test_fusing_and_forgetting_are_carried_out_once_too,
    test_the_record_of_an_erased_memory_goes_with_it,
)
from tests.engine.test_recall import (  # noqa: F401
    test_as_of_tells_what_was_known_then,
    test_being_recalled_is_counted_and_the_first_time_activates,
    test_uses_are_not_lost_by_closing,
)
from tests.engine.test_remember import (  # noqa: F401
    test_a_conversation_is_kept_verbatim_in_order_and_linked,
    test_a_long_text_is_found_by_its_pieces_and_read_as_a_whole,
    test_a_rival_is_kept_and_named_with_lineage,
    test_what_supersedes_archives_the_old_with_lineage,
)
from tests.engine.test_transfer import (  # noqa: F401
    test_what_goes_out_comes_in_whole_and_a_second_time_changes_nothing,
)
from tests.engine.test_vault import (  # noqa: F401
    test_compacting_keeps_what_lives_while_readers_read,
)

SAID = 100
WINDOW = 8  # bytes: the shortest form that is sought is longer
LONGEST = 1_000
BITS = 22
LETTERS = str.maketrans("0123456789abcdef", "bcdfghklmnprstvz")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return encrypted(settings_for(tmp_path / "data"))


# --- nothing readable -----------------------------------------------------------------------------------------------


def rare(number: int, which: str) -> str:
    """A word that stands nowhere else."""
    return hashlib.sha256(f"{number} {which}".encode()).hexdigest()[:12].translate(LETTERS).capitalize() + "ing"


def sentence(number: int) -> str:
    return f"{rare(number, 'who')} keeps {number} lanterns in the {rare(number, 'where')} of {rare(number, 'town')}."


def fill(settings: Settings, clock: HandClock) -> list[str]:
    """Say a hundred sentences in every way in which something can be said; all that was said."""
    said = [sentence(number) for number in range(SAID)]
    with opened(settings, clock) as memos:
        facts = [say(memos, text, tags=(text.split()[0],), source=f"{text.split()[-1]}txt") for text in said[:40]]
        turns = tuple(Turn("user", text, name=rare(number, "name")) for number, text in enumerate(said[40:60]))
        memos.remember(Remember(messages=turns, source=rare(0, "session")), ME)
        say(memos, " ".join(said[60:70]) * 20)
        archive(memos, facts[0], reason=said[70])
        archive(memos, facts[1])
        memos.restore(facts[1], 1, ME, reason=said[71])
        memos.fuse(Fuse(ids=tuple(facts[2:5])), ME)
        memos.fuse(Fuse(ids=tuple(facts[5:7]), content=said[72]), Caller(operation="once"))
        for number in range(73, 80):
            say(memos, said[number], supersedes=(facts[number - 60],), caller=Caller(operation=f"operation {number}"))
        clock.pass_by(days=1)
        memos.sweep()
        kept = [{"content": text, "metadata": json.dumps({"about": text}), "actor": text[:9]} for text in said[80:95]]
        memos.import_memories(kept, ME)
        for text in said[95:]:
            say(memos, text, cube="another", tags=(text,))
        memos.recall(Recall(query=said[3]), ME)
        memos.backup(settings.data / "a copy.duckdb", ME)
    return [*said, *(rare(number, "name") for number in range(20)), rare(0, "session")]


def found(folder: Path, wanted: dict[str, list[bytes]]) -> set[str]:
    """What of it stands in a file of the folder; small and capital letters are the same."""
    begins: dict[int, list[tuple[bytes, str]]] = {}
    for name, forms_of_it in wanted.items():
        for form in forms_of_it:
            begins.setdefault(int.from_bytes(form[:WINDOW], "little"), []).append((form, name))
    likely = np.zeros(1 << BITS, bool)
    likely[mixed(np.array(list(begins), "<u8"))] = True
    hits = set()
    for content in contents_of(folder):
        for place in np.flatnonzero(likely[mixed(windows(content))]):
            near = content[place : place + LONGEST]
            known = begins.get(int.from_bytes(near[:WINDOW], "little"), ())
            hits |= {name for form, name in known if near.startswith(form)}
    return hits


def contents_of(folder: Path) -> Iterator[bytes]:
    """Each file, as it is and in small letters."""
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert files
    for content in files:
        if len(content) >= WINDOW:
            yield content
            yield content.lower()


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A few bits of each number, so that most places need not be looked at."""
    return (numbers * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - BITS)


def windows(content: bytes) -> NDArray[np.uint64]:
    """The eight bytes from each place on, as a number."""
    raw = np.lib.stride_tricks.sliding_window_view(np.frombuffer(content, np.uint8), WINDOW)
    return np.ascontiguousarray(raw).view("<u8")[:, 0]


def forms(text: str) -> list[bytes]:
    """A text as it might stand in a file: in the usual encodings, in lower case, in base64 at each alignment."""
    raw = {form.encode(coding) for form in (text, text.lower()) for coding in ("utf-8", "utf-16-le", "utf-16-be")}
    coded = [base64.b64encode(b"\0" * shift + text.encode())[4 if shift else 0 : -4] for shift in range(3)]
    return [*raw, *coded]


@dataclass(frozen=True)
class Both:
    plain: Settings
    sealed: Settings


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The same store twice, the second one encrypted after it was filled."""
    folder = tmp_path_factory.mktemp("both")
    plain = replace(with_vectors(settings_for(folder / "plain")), backup_every_h=24.0)
    fill(plain, HandClock())
    shutil.copytree(plain.data, folder / "sealed")
    (folder / "sealed" / "a copy.duckdb").unlink()  # made by hand: nobody but its owner removes it
    return Both(plain, encrypted(replace(plain, data=folder / "sealed")))


def test_nothing_that_was_said_can_be_read_in_any_file(tmp_path: Path, both: Both) -> None:
    sealed = encrypted(replace(both.plain, data=tmp_path / "sealed"))
    said = fill(sealed, HandClock())
    tokens = {word for text in said for word in (*text.replace(".", "").split(), *stems(text)) if len(word) > 9}
    assert len(tokens) > 2.5 * SAID
    wanted = {text: forms(text) for text in (*said, *tokens)}
    with opened(sealed, HandClock()) as memos:  # as a daemon does at its next start
        memos.sweep()
        assert found(sealed.data, wanted) == set()
        assert len(memos.recall(Recall(query=sentence(20)), ME).memories) > 0
    assert found(sealed.data, wanted) == found(both.sealed.data, wanted) == set()
    assert len(list(sealed.data.rglob("*.duckdb"))) >= 3  # the store and copies of it
    if is_encrypted(both.plain) is False:
        assert set(said) - found(both.plain.data, wanted) == set()  # so the search finds what is there to be found


# --- the same answers -----------------------------------------------------------------------------------------------


def answers(settings: Settings) -> list[list[tuple[str, float, str]]]:
    clock = HandClock()
    clock.pass_by(days=2)
    queries = [sentence(number) for number in range(0, SAID, 7)] + [
        "lanterns",
        "who keeps 17 lanterns?",
        "what was said yesterday",
        rare(50, "town"),
        "where are the lamps?",
    ]
    with MemOS.open(settings, clock=clock) as memos:
        wanted = [
            Recall(query=query, limit=20, max_tokens=100_000, include_archived=archived, detailed=True)
            for query in queries
            for archived in (False, True)
        ]
        given = [memos._recalling.recall(request, ME, use=False) for request in wanted]
        assert memos.verify(ME) == ()
    assert all(item.degraded is None for item in given)
    return [[(item.memory.id, item.score, item.memory.content) for item in recalled.memories] for recalled in given]


def test_an_encrypted_store_gives_the_same_answers_with_the_same_scores(both: Both) -> None:
    right = answers(both.plain)
    assert sum(map(len, right)) > 200
    assert answers(both.sealed) == right


def test_what_is_exported_from_an_encrypted_store_is_what_a_plain_one_exports(both: Both) -> None:
    def exported(settings: Settings) -> list[object]:
        with MemOS.open(settings) as memos:
            return [list(memos.export_memories(ME)), [memos.cube(view.cube.name, ME).cube for view in memos.cubes(ME)]]

    assert exported(both.sealed) == exported(both.plain)
