"""Sealing with AES: what was sealed opens in its place, unchanged, under its key, and nowhere else."""

from __future__ import annotations

import io
import os
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import Corrupt, Invalid
from engine.vault.aes import MAGIC, SALT_BYTES, TAG_BYTES, AesSealer
from engine.vault.sealing import CHUNK_BYTES, UNSEALED, Sealer

KEY = bytes(range(32))
SEALER = AesSealer(KEY)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)))
PIECE = CHUNK_BYTES + TAG_BYTES


@pytest.mark.parametrize("sealer", [SEALER, UNSEALED], ids=["sealed", "plain"])
@given(text=TEXTS, place=TEXTS, blob=st.binary())
def test_what_was_sealed_opens_again(sealer: Sealer, text: str, place: str, blob: bytes) -> None:
    assert sealer.read_text(sealer.text(text, place), place) == text
    assert sealer.read_blob(sealer.blob(blob, place), place) == blob
    assert sealer.read_name(sealer.name(text)) == text


@given(one=TEXTS, other=TEXTS)
def test_equal_names_and_only_these_are_sealed_alike_and_equal_contents_never(one: str, other: str) -> None:
    assert (SEALER.name(one) == SEALER.name(other)) == (one == other)
    assert SEALER.text(one, "a") != SEALER.text(one, "a")


@given(st.data())
def test_a_value_that_was_changed_does_not_open(data: st.DataObject) -> None:
    stored = bytearray(SEALER.blob(data.draw(st.binary()), "m_1:1:content"))
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Corrupt, match="m_1:1:content"):
        SEALER.read_blob(bytes(stored), "m_1:1:content")


ELSEWHERE = SEALER.text("here", "there")


@pytest.mark.parametrize(
    "stored", ["", "no base64!", "QUJD", ELSEWHERE, "ü"], ids=["empty", "no base64", "short", "elsewhere", "no ASCII"]
)
def test_a_value_of_another_place_or_none_at_all_does_not_open(stored: str) -> None:
    with pytest.raises(Corrupt, match="'here'"):
        SEALER.read_text(stored, "here")
    with pytest.raises(Corrupt, match="name"):
        SEALER.read_name(stored)


def test_another_key_opens_nothing_and_no_message_says_what_a_value_says() -> None:
    other = AesSealer(os.urandom(32))
    reads: list[Callable[[], object]] = [
        lambda: other.read_text(SEALER.text("Quillfeather", "here"), "here"),
        lambda: other.read_blob(SEALER.blob(b"Quillfeather", "here"), "here"),
        lambda: other.read_name(SEALER.name("Quillfeather")),
        lambda: opened(sealed(b"Quillfeather"), other),
    ]
    for read in reads:
        with pytest.raises(Corrupt) as refusal:
            read()
        assert "Quillfeather" not in str(refusal.value)
    assert KEY.hex() not in repr(SEALER) + str(vars(SEALER))


def test_a_lone_surrogate_is_refused_as_a_plain_store_refuses_it() -> None:
    for seal in (lambda text: SEALER.text(text, "here"), SEALER.name):
        with pytest.raises(Invalid, match="lone surrogate"):
            seal("before \ud800 after")


# --- files ----------------------------------------------------------------------------------------------------------


def sealed(content: bytes, place: str = "blob:a", parts: int = 3) -> bytes:
    target = io.BytesIO()
    size = len(content) // parts + 1
    SEALER.seal_file((content[start : start + size] for start in range(0, len(content), size)), target, place)
    return target.getvalue()


def opened(stored: bytes, sealer: Sealer = SEALER, place: str = "blob:a") -> bytes:
    return b"".join(sealer.open_file(io.BytesIO(stored), place))


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 300_000])
def test_a_file_of_any_size_opens_again(size: int) -> None:
    content = os.urandom(size)
    stored = sealed(content)
    assert opened(stored) == content
    assert content[:40] not in stored or size < 16


def test_a_file_that_was_cut_lengthened_reordered_or_moved_does_not_open() -> None:
    content = os.urandom(3 * CHUNK_BYTES)
    stored = sealed(content)
    head = len(MAGIC) + SALT_BYTES
    pieces = [stored[head + PIECE * n : head + PIECE * (n + 1)] for n in range(3)]
    damaged = {
        "no head": stored[head:],
        "half a head": stored[: head - 1],
        "only a head": stored[:head],
        "the last piece is missing": stored[:-PIECE],
        "a byte is missing": stored[:-1],
        "a byte more": stored + b"\0",
        "a piece more": stored + pieces[0],
        "two pieces changed places": stored[:head] + pieces[1] + pieces[0] + pieces[2],
        "a piece is missing inside": stored[:head] + pieces[0] + pieces[2],
        "another salt": stored[:20] + bytes([stored[20] ^ 1]) + stored[21:],
        "of another file": stored[:head] + sealed(content)[head:],
    }
    for how, bad in damaged.items():
        with pytest.raises(Corrupt):
            pytest.fail(f"{how}: {len(opened(bad))} bytes")
    with pytest.raises(Corrupt, match="blob:b"):
        opened(stored, place="blob:b")


def test_a_file_is_opened_piece_by_piece() -> None:
    source = io.BytesIO(sealed(bytes(10 * CHUNK_BYTES)))
    first = next(SEALER.open_file(source, "blob:a"))
    assert len(first) == CHUNK_BYTES
    assert source.tell() <= 3 * PIECE
