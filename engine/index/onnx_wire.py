"""Writes an ONNX model as bytes: the handful of protobuf messages that a small graph needs.

ONNX files are protobuf; the `onnx` package is a heavy dependency for writing a few hundred fields by hand. Field
numbers are those of onnx.proto (IR version 8). Weights are not copied in: a tensor can point at a byte range of
another file (`external_tensor`), which is how the graph runs straight from a safetensors file.

This module knows messages, not models, and cannot read them back.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum

IR_VERSION = 8
VARINT, LENGTH_DELIMITED, FIXED_32 = 0, 2, 5
EXTERNAL = 1  # TensorProto.DataLocation


class ElementType(IntEnum):
    """TensorProto.DataType, as far as weights and token ids need it."""

    FLOAT = 1
    INT32 = 6
    FLOAT16 = 10
    BFLOAT16 = 16


class AttributeType(IntEnum):
    """AttributeProto.AttributeType."""

    FLOAT = 1
    INT = 2


def external_tensor(
    name: str, element: ElementType, shape: Sequence[int], location: str, offset: int, length: int
) -> bytes:
    """A TensorProto whose values are `length` bytes at `offset` of the file `location`, beside the model."""
    entries = {"location": location, "offset": str(offset), "length": str(length)}
    external = (_bytes(13, _text(1, key) + _text(2, value)) for key, value in entries.items())
    dimensions = (_int(1, size) for size in shape)
    return b"".join([*dimensions, _int(2, element), _text(8, name), *external, _int(14, EXTERNAL)])


def node(
    operator: str,
    inputs: Iterable[str],
    outputs: Sequence[str],
    attributes: Mapping[str, float | int] | None = None,
    domain: str = "",
) -> bytes:
    """A NodeProto, named after its first output."""
    fields = [_text(1, name) for name in inputs]
    fields += [*(_text(2, name) for name in outputs), _text(3, outputs[0]), _text(4, operator)]
    fields += [_bytes(5, _attribute(name, value)) for name, value in (attributes or {}).items()]
    return b"".join([*fields, _text(7, domain)])


def value(name: str, element: ElementType, shape: Sequence[int | str]) -> bytes:
    """A ValueInfoProto: an input or output of the graph; a dimension given by name is free."""
    dimensions = (_bytes(1, _text(2, size) if isinstance(size, str) else _int(1, size)) for size in shape)
    tensor = _int(1, element) + _bytes(2, b"".join(dimensions))
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


def model(
    nodes: Iterable[bytes],
    tensors: Iterable[bytes],
    inputs: Iterable[bytes],
    outputs: Iterable[bytes],
    opsets: Mapping[str, int],
) -> bytes:
    """A ModelProto; `opsets` maps each operator domain in use to its version."""
    graph = b"".join(
        [
            *(_bytes(1, each) for each in nodes),
            _text(2, "graph"),
            *(_bytes(5, each) for each in tensors),
            *(_bytes(11, each) for each in inputs),
            *(_bytes(12, each) for each in outputs),
        ]
    )
    versions = (_bytes(8, _text(1, domain) + _int(2, version)) for domain, version in opsets.items())
    return b"".join([_int(1, IR_VERSION), _text(2, "memos"), _bytes(7, graph), *versions])


def _attribute(name: str, attribute: float | int) -> bytes:
    if isinstance(attribute, float):
        stored = _key(2, FIXED_32) + struct.pack("<f", attribute)
        return _text(1, name) + stored + _int(20, AttributeType.FLOAT)
    return _text(1, name) + _int(3, attribute) + _int(20, AttributeType.INT)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _int(field: int, number: int) -> bytes:
    return _key(field, VARINT) + _varint(number)


def _bytes(field: int, content: bytes) -> bytes:
    return _key(field, LENGTH_DELIMITED) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())
