"""safetensors without a library: the one form in which embeddings are written, and a check of blobs that others wrote.

A safetensors file is a header length (8 bytes, little-endian), a JSON header and the tensors' bytes. Nothing in it is
ever executed. Knows nothing of what the tensors are for.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cubes import fields
from cubes.canonical import json_bytes
from cubes.errors import DamagedBundle, MalformedCube, TooLargeBundle
from cubes.limits import MAX_PASSAGES

MAX_BLOB_HEADER_BYTES = 4 << 20  # 30,000 tensors: the largest adapters have a few thousand
MAX_AXES = 16
_LENGTH_BYTES = 8
_MAX_EMBEDDINGS_HEADER = 256  # it takes 150
_HEADER_DEPTH = 4
DTYPE_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
}

Floats = npt.NDArray[np.float32]


def embeddings_bytes(vectors: Sequence[Floats | None], dimension: int) -> bytes:
    """The vectors of a shard's memories, each [passages, dimension], as one safetensors file.

    Raises:
        MalformedCube: a shape that does not fit, or a number that is not finite.
    """
    counts = np.array([0 if rows is None else len(rows) for rows in vectors], dtype="<i4")
    for rows in vectors:
        if rows is not None:
            check_vectors(rows, dimension)
    some = [rows for rows in vectors if rows is not None]
    body = np.concatenate(some).astype("<f4") if some else np.zeros((0, dimension), dtype="<f4")
    return _embeddings_header(len(counts), len(body), dimension) + counts.tobytes() + body.tobytes()


def check_vectors(vectors: Floats, dimension: int) -> None:
    """Refuse the vectors of one memory where they are not finite numbers of the shape [passages, dimension].

    Raises:
        MalformedCube: what is wrong.
    """
    if vectors.ndim != 2 or vectors.shape[1] != dimension or not 1 <= len(vectors) <= MAX_PASSAGES:
        raise MalformedCube(
            f"vectors have the shape {list(vectors.shape)}: it must be [1 to {MAX_PASSAGES}, {dimension}]"
        )
    if vectors.dtype != np.float32:
        raise MalformedCube(f"vectors are of {vectors.dtype}: they must be of float32")
    _check_finite(vectors)


def read_embeddings(raw: bytes, memories: int, dimension: int) -> list[Floats | None]:
    """The vectors of a shard that has so many memories: the reverse of `embeddings_bytes`.

    Raises:
        MalformedCube: it is not exactly what `embeddings_bytes` writes for such a shard.
    """
    passages = _passages(raw)
    header = _embeddings_header(memories, passages, dimension)
    counts_end = len(header) + 4 * memories
    if not raw.startswith(header) or len(raw) != counts_end + 4 * passages * dimension:
        raise MalformedCube(f"its tensors are not those of {memories} memories with vectors of {dimension} numbers")
    counts = np.frombuffer(raw, "<i4", memories, len(header)).astype(np.int64)
    if memories and (counts.min() < 0 or counts.max() > MAX_PASSAGES):
        raise MalformedCube(f"a memory has a number of passages that is not 0 to {MAX_PASSAGES}")
    if counts.sum() != passages:
        raise MalformedCube(f"its memories have {counts.sum()} passages together, and there are {passages} vectors")
    body = np.frombuffer(raw, "<f4", passages * dimension, counts_end).reshape(passages, dimension)
    _check_finite(body)
    ends = np.cumsum(counts)
    return [
        body[end - count : end].astype(np.float32) if count else None for end, count in zip(ends, counts, strict=True)
    ]


def _embeddings_header(memories: int, passages: int, dimension: int) -> bytes:
    counts_end = 4 * memories
    header = json_bytes(
        {
            "passages": {"dtype": "I32", "shape": [memories], "data_offsets": [0, counts_end]},
            "vectors": {
                "dtype": "F32",
                "shape": [passages, dimension],
                "data_offsets": [counts_end, counts_end + 4 * passages * dimension],
            },
        }
    )
    header += b" " * (-len(header) % 8)  # the tensors start where 8-byte numbers may stand
    return struct.pack("<Q", len(header)) + header


def _passages(raw: bytes) -> int:
    """How many vectors the header speaks of. Nothing else of it is believed: it is rebuilt and compared."""
    length = int.from_bytes(raw[:_LENGTH_BYTES], "little")
    if len(raw) < _LENGTH_BYTES or length > min(_MAX_EMBEDDINGS_HEADER, len(raw) - _LENGTH_BYTES):
        raise MalformedCube("its safetensors header is cut short, or longer than this format's")
    header = fields.parse(raw[_LENGTH_BYTES : _LENGTH_BYTES + length], _HEADER_DEPTH)
    vectors = header.get("vectors") if isinstance(header, dict) else None
    shape = vectors.get("shape") if isinstance(vectors, dict) else None
    if not isinstance(shape, list) or len(shape) != 2:
        raise MalformedCube("its safetensors header has no tensor named vectors with two axes")
    return fields.whole(shape[0], "the number of vectors")


def _check_finite(vectors: Floats) -> None:
    if not np.isfinite(vectors).all():
        raise MalformedCube("a vector holds a number that is not finite")


# --- blobs of artifacts ---------------------------------------------------------------------------------------------


def blob_header_bytes(start: bytes, size: int) -> int:
    """How many bytes of a blob of `size` bytes its header takes, by the first 8.

    Raises:
        DamagedBundle, TooLargeBundle: it cannot be a safetensors file.
    """
    if len(start) < _LENGTH_BYTES:
        raise DamagedBundle("it is too short for a safetensors file")
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    if length > size - _LENGTH_BYTES:
        raise DamagedBundle("its safetensors header is longer than the file")
    if length > MAX_BLOB_HEADER_BYTES:
        raise TooLargeBundle(f"its safetensors header has {length} bytes: at most {MAX_BLOB_HEADER_BYTES} are allowed")
    return _LENGTH_BYTES + length


def check_blob(head: bytes, size: int) -> None:
    """Refuse a blob of `size` bytes with this head (length and header) whose tensors do not fill it exactly.

    Raises:
        MalformedCube: a type that is unknown, a shape that does not fit its bytes, tensors that overlap or leave gaps.
    """
    header = fields.parse(head[_LENGTH_BYTES:], _HEADER_DEPTH)
    if not isinstance(header, dict):
        raise MalformedCube("its safetensors header is no JSON object")
    remarks = header.pop("__metadata__", {})
    if not isinstance(remarks, dict) or not all(isinstance(remark, str) for remark in remarks.values()):
        raise MalformedCube("the __metadata__ of its safetensors header is not text by name")
    spans = sorted(_span(tensor) for tensor in header.values())
    end = 0
    for start, stop in spans:
        if start != end:
            raise MalformedCube("its tensors overlap or leave a gap")
        end = stop
    if end != size - len(head):
        raise MalformedCube("its tensors do not fill the file")


def _span(tensor: object) -> tuple[int, int]:
    """Where a tensor stands, checked against its type and shape."""
    found = fields.mapping(tensor, "a tensor", {"dtype", "shape", "data_offsets"})
    most = 1 << 48
    bits = DTYPE_BITS.get(found["dtype"]) if isinstance(found["dtype"], str) else None
    if bits is None:
        raise MalformedCube("a tensor has a type that safetensors does not know")
    shape = [
        fields.whole(axis, "an axis of a tensor", 0, most) for axis in fields.array(found["shape"], "shape", MAX_AXES)
    ]
    offsets = [
        fields.whole(at, "an offset of a tensor", 0, most) for at in fields.array(found["data_offsets"], "offsets", 2)
    ]
    if len(offsets) != 2 or (offsets[1] - offsets[0]) * 8 != math.prod(shape) * bits:
        raise MalformedCube("a tensor's shape does not fit its bytes")
    return offsets[0], offsets[1]
