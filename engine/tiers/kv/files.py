"""KV caches as safetensors files: what a blob of an artifact holds, written and read without copying more than once.

The header's `__metadata__` says what it is: format, form, where its tokens stood, how it is compressed, the model's
fingerprint, digests of the tokens. A plain store's blob is mapped into memory; a sealed one is opened into memory.

Knows nothing of cubes, memories or budgets. What must stay true: what is returned by `read` is what the digest says and
what the caller expects, every number of it; else it is `Corrupt`. Nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cubes import CubeError
from cubes.tensors import blob_header_bytes, check_blob
from engine.errors import Corrupt
from engine.settings import Settings
from engine.tiers.kv.compression import Packed, compressed, restored
from engine.tiers.kv.tensors import Layers, finite, tokens_of
from engine.vault.blobs import DIGEST_PREFIX, blob_path, read_blob
from engine.vault.sealing import Sealer

FORMAT = "memos-kv 1"
NONE = "none"  # not compressed
ALIGNED_BYTES = 64  # tensors start where any number, and a cache line, may stand
PIECE_BYTES = 1 << 20
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
}
_NAMED = {name: dtype for dtype, name in _DTYPES.items()}
_REAL = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16)}

Identity = tuple[int, int, int]  # of a file that was checked: inode, size, time of its last change


@dataclass(frozen=True)
class TensorFile:
    """A file that is to be written."""

    head: bytes
    tensors: tuple[torch.Tensor, ...]
    size: int
    digest: str

    def pieces(self) -> Iterator[bytes]:
        """Its bytes, a piece at a time."""
        yield self.head
        yield from _bytes_of(self.tensors)


def encode(layers: Layers, how: str, about: Mapping[str, str]) -> TensorFile:
    """The file of these layers, compressed as `how` says. `about` is what its metadata tells beside its form."""
    tensors = _plain(layers) if how == NONE else compressed(layers, how).tensors
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {
        "__metadata__": dict(about)
        | {
            "format": FORMAT,
            "compression": how,
            "dtype": str(layers[0][0].dtype).removeprefix("torch."),
            "layers": str(len(layers)),
            "tokens": str(tokens_of(layers)),
        }
    }
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    told = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    told += b" " * (-(len(told) + 8) % ALIGNED_BYTES)
    head, flat = struct.pack("<Q", len(told)) + told, tuple(tensor for _, tensor in ordered)
    hashed = hashlib.sha256(head)
    for piece in _bytes_of(flat):
        hashed.update(piece)
    return TensorFile(head, flat, len(head) + end, DIGEST_PREFIX + hashed.hexdigest())


def _plain(layers: Layers) -> dict[str, torch.Tensor]:
    pairs = enumerate(layers)
    return {f"{number}.{name}": tensor for number, pair in pairs for name, tensor in zip(_NAMES, pair, strict=True)}


_NAMES = ("keys", "values")


def _bytes_of(tensors: tuple[torch.Tensor, ...]) -> Iterator[bytes]:
    for tensor in tensors:
        raw = memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        for start in range(0, len(raw), PIECE_BYTES):
            yield bytes(raw[start : start + PIECE_BYTES])


# --- reading ----------------------------------------------------------------------------------------------------------


def read(
    settings: Settings,
    digest: str,
    size: int,
    sealer: Sealer,
    expected: Mapping[str, str],
    checked: Identity | None = None,
) -> tuple[Layers, Identity | None]:
    """The layers of a blob of `size` bytes, and what tells that its file was checked: given again, it is not hashed.

    The layers of a plain blob lie in the mapped file; they must not be written to.

    Raises:
        Corrupt: it is missing or damaged, or not what `expected` says of its metadata.
    """
    if not sealer.plain:
        return _layers(_unsealed(settings, digest, size, sealer), digest, expected, check=True), None
    mapped, found = _mapped(settings, digest, size, sealer)
    if found != checked and DIGEST_PREFIX + hashlib.sha256(mapped).hexdigest() != digest:
        raise Corrupt(f"the blob {digest} is not what its digest says: it was changed or damaged")
    return _layers(mapped, digest, expected, check=found != checked), found


def _mapped(settings: Settings, digest: str, size: int, sealer: Sealer) -> tuple[memoryview, Identity]:
    path = blob_path(settings, digest, sealer)
    try:
        told = path.stat()
        if told.st_size != size or not size:
            raise Corrupt(f"the blob {path.name} has {told.st_size} bytes instead of {size}")
        # torch's own mapping is private, so that nothing reaches the file, and keeps no descriptor open (mmap does).
        whole = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    except OSError as error:
        raise Corrupt(f"the blob {path.name} cannot be read ({error.strerror}): it is built again") from error
    except RuntimeError as error:
        raise Corrupt(f"the blob {path.name} cannot be mapped: it is built again") from error
    return memoryview(whole.numpy()), (told.st_ino, size, told.st_mtime_ns)


def _unsealed(settings: Settings, digest: str, size: int, sealer: Sealer) -> memoryview:
    found, at = bytearray(size), 0
    for piece in read_blob(settings, digest, sealer):
        if at + len(piece) > size:
            raise Corrupt(f"the blob {digest} has more than {size} bytes")
        found[at : at + len(piece)] = piece
        at += len(piece)
    if at != size:
        raise Corrupt(f"the blob {digest} has {at} bytes instead of {size}")
    return memoryview(found)


def _layers(raw: memoryview, digest: str, expected: Mapping[str, str], *, check: bool) -> Layers:
    try:
        length = blob_header_bytes(bytes(raw[:8]), len(raw))
        head = bytes(raw[:length])
        if check:
            check_blob(head, len(raw))
        header = json.loads(head[8:])
        told = header.pop("__metadata__", {})
        tensors = {name: _tensor(raw, length, about) for name, about in header.items()}
        if any(told.get(name) != value for name, value in {**expected, "format": FORMAT}.items()):
            raise Corrupt(f"the blob {digest} is another KV cache than its artifact says")
        layers = _restored(tensors, told)
    except (CubeError, KeyError, ValueError, RuntimeError, IndexError, TypeError) as error:
        raise Corrupt(f"the blob {digest} holds no KV cache that can be read") from error
    if check and not finite(layers):
        raise Corrupt(f"the blob {digest} holds numbers that are none")
    return layers


def _tensor(raw: memoryview, length: int, about: Mapping[str, Any]) -> torch.Tensor:
    dtype, (start, end) = _NAMED[about["dtype"]], about["data_offsets"]
    if start == end:
        return torch.empty(about["shape"], dtype=dtype)
    flat = torch.frombuffer(raw, dtype=dtype, count=(end - start) // dtype.itemsize, offset=length + start)
    return flat.reshape(about["shape"])


def _restored(tensors: Mapping[str, torch.Tensor], told: Mapping[str, str]) -> Layers:
    dtype, how, count = _REAL[told["dtype"]], told["compression"], int(told["layers"])
    if how == NONE:
        layers = tuple((tensors[f"{number}.keys"], tensors[f"{number}.values"]) for number in range(count))
    else:
        layers = restored(Packed(how, dict(tensors)), dtype, "cpu")
    tokens = int(told["tokens"])
    for keys, values in layers:
        for tensor in (keys, values):
            if tensor.ndim != 4 or tensor.shape[0] != 1 or tensor.shape[2] != tokens or tensor.dtype != dtype:
                raise ValueError("a tensor of another shape or type")
    if len(layers) != count or not count or not tokens:
        raise ValueError("no layers")
    return layers
