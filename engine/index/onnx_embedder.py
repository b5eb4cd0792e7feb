"""Runs a sentence-embedding model on onnxruntime: tokens, encoder, pooling, L2 norm, as sentence-transformers does.

onnxruntime and tokenizers take a third of a second to import and the session 50 ms to make: both wait for the first
`embed`. Texts are batched with texts of their own length, because padding costs as much as text; a batch is bounded in
tokens, which bounds the memory. Threads do not spin between calls: a daemon that waits must not heat the machine, and
where the cores are busy spinning doubles the time (measured on 2 cores, one busy: 7.5 ms instead of 3.6 for 17 tokens).

Figures on 2 shared cores, float32: first text 90 ms, 12 tokens 2.4 ms, 64 tokens 9 ms, batches 12,000 words a second.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import Corrupt, Invalid, Unavailable
from engine.index.bert_graph import INPUTS, build
from engine.index.model_folder import Pooling, Recipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Floats = NDArray[np.float32]

BATCH_MAX_TOKENS = 1024  # padding included; larger batches are no faster, and held 45 MB more
CHUNK_TEXTS = 1024  # texts tokenized at once
MAX_THREADS = 4  # a background service leaves the rest of the machine alone
RECENT_TEXTS = 256  # single texts whose vectors are kept: clients repeat and refine their queries
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"  # since onnxruntime 1.21
SMALLEST_NORM = 1e-12
TokenType = type[np.int32] | type[np.int64]
TOKEN_TYPES: dict[str, TokenType] = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What takes time to make, made once."""

    tokenizer: Tokenizer
    padding_id: int
    session: Any  # onnxruntime.InferenceSession, which has no types
    inputs: dict[str, TokenType]
    output: str  # [batch, tokens, hidden], or [batch, hidden] of an export that pools by itself


class OnnxEmbedder:
    """An `Embedder` that follows a recipe. Any thread may call `embed`."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._loading = threading.Lock()
        self._loaded: _Loaded | None = None
        self._recent_lock = threading.Lock()
        self._recent: OrderedDict[bytes, Floats] = OrderedDict()  # by digest: no text is held

    @property
    def name(self) -> str:
        return self._recipe.name

    @property
    def fingerprint(self) -> str:
        return self._recipe.fingerprint

    @property
    def dimension(self) -> int:
        return self._recipe.dimension

    def embed(self, texts: Sequence[str]) -> Floats:
        """Vectors [len(texts), dimension] with L2 norm 1, in the order of the texts.

        Raises:
            Invalid: a text with a lone surrogate.
            Unavailable: the encoder cannot be run by the installed onnxruntime.
            Corrupt: the model's files cannot be read.
        """
        keys = [_digest(text) for text in texts]
        if len(keys) != 1:
            return self._embed(texts)
        with self._recent_lock:
            known = self._recent.pop(keys[0], None)
        vectors = self._embed(texts) if known is None else known
        with self._recent_lock:
            self._recent[keys[0]] = vectors
            if len(self._recent) > RECENT_TEXTS:
                self._recent.popitem(last=False)
        return vectors.copy()

    def _embed(self, texts: Sequence[str]) -> Floats:
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        if not texts:
            return vectors
        model = self._load()
        for start in range(0, len(texts), CHUNK_TEXTS):
            tokens = _tokenize(model.tokenizer, texts[start : start + CHUNK_TEXTS])
            for rows in _batches([len(each) for each in tokens]):
                vectors[start + rows] = self._run(model, [tokens[row] for row in rows])
        return vectors

    def _run(self, model: _Loaded, batch: list[list[int]]) -> Floats:
        """Unit vectors [len(batch), dimension] of token ids; the encoder's states are [batch, tokens, hidden]."""
        width = max(len(ids) for ids in batch)
        ids = np.full((len(batch), width), model.padding_id, np.int64)
        mask = np.zeros_like(ids)
        for row, each in enumerate(batch):
            ids[row, : len(each)] = each
            mask[row, : len(each)] = 1
        named = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        feed = {name: named[name].astype(kind) for name, kind in model.inputs.items()}
        with _runtime_failures(self._recipe):
            (states,) = model.session.run([model.output], feed)
        pooled = _pool(np.asarray(states, np.float32), mask, self._recipe.pooling)
        if pooled.shape != (len(batch), self.dimension):
            raise Unavailable(
                f"{self._recipe.weights} gives no vectors of {self.dimension} numbers, as its config.json says: "
                "fetch the whole model folder anew"
            )
        return np.asarray(pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), SMALLEST_NORM), np.float32)

    def _load(self) -> _Loaded:
        with self._loading:
            if self._loaded is None:
                self._loaded = _load(self._recipe)
            return self._loaded


def _batches(lengths: Sequence[int]) -> Iterator[NDArray[np.intp]]:
    """Rows grouped by similar length, shortest first, each group within `BATCH_MAX_TOKENS` when padded."""
    order = np.argsort(lengths, kind="stable")
    cuts, start = [0], 0
    for place, row in enumerate(order):
        if place > start and (place - start + 1) * lengths[row] > BATCH_MAX_TOKENS:
            cuts.append(place)
            start = place
    for begin, end in pairwise([*cuts, len(order)]):
        yield order[begin:end]


def _pool(states: Floats, mask: NDArray[np.int64], pooling: Pooling) -> Floats:
    """One vector [batch, hidden] of token states [batch, tokens, hidden]; an export may have pooled already."""
    if states.ndim != 3:
        return states
    if pooling == "cls":
        return states[:, 0]
    weights = (mask / mask.sum(axis=1, keepdims=True)).astype(np.float32)
    pooled: Floats = np.matmul(weights[:, None, :], states)[:, 0]
    return pooled


def _load(recipe: Recipe) -> _Loaded:
    try:
        tokenizer, padding_id = _load_tokenizer(recipe)
        session = _load_session(recipe)
    except ImportError as error:  # installed, since the recipe was opened, but not for this machine
        raise Unavailable(f"{error.name or 'onnxruntime'} cannot be imported: install it anew ({error})") from error
    inputs = {each.name: TOKEN_TYPES.get(each.type) for each in session.get_inputs()}
    known = {str(name): kind for name, kind in inputs.items() if kind is not None and name in INPUTS}
    outputs = [each.name for each in session.get_outputs()]
    if len(known) != len(inputs):
        raise Unavailable(f"{recipe.weights} wants other inputs than {', '.join(INPUTS)}: it is no text encoder")
    output = "last_hidden_state" if "last_hidden_state" in outputs else outputs[0]
    return _Loaded(tokenizer, padding_id, session, known, output)


def _load_tokenizer(recipe: Recipe) -> tuple[Tokenizer, int]:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(recipe.tokenizer))
    except Exception as error:  # the library raises nothing more particular
        raise Corrupt(f"{recipe.tokenizer} cannot be read: {error}") from error
    padding_id = int((tokenizer.padding or {}).get("pad_id", 0))
    tokenizer.no_padding()
    tokenizer.enable_truncation(recipe.max_tokens)
    return tokenizer, padding_id


def _load_session(recipe: Recipe) -> Any:
    """An onnxruntime session: of the ONNX file, or of a graph built around the safetensors file."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = min(MAX_THREADS, os.cpu_count() or 1)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors: its warnings about processors tell a user nothing
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    weights = recipe.weights.resolve()  # the Hugging Face cache holds links, which onnxruntime does not follow
    model: str | bytes = str(weights)
    if recipe.shape is not None:
        options.add_session_config_entry(WEIGHTS_FOLDER, str(weights.parent))
        model = build(weights, recipe.shape)
    with _runtime_failures(recipe):
        try:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except (errors.InvalidProtobuf, errors.NoSuchFile) as error:
            raise Corrupt(f"{recipe.weights} cannot be read: {error}") from error


@contextmanager
def _runtime_failures(recipe: Recipe) -> Iterator[None]:
    """Say of whatever onnxruntime refuses that the model cannot be run: recall then goes on without vectors."""
    import onnxruntime

    try:
        yield
    except MemoryError as error:
        raise Unavailable(f"there is not enough memory to run {recipe.weights}") from error
    except _runtime_errors() as error:
        raise Unavailable(
            f"{recipe.weights} cannot be run by onnxruntime {onnxruntime.__version__}: {error}"
        ) from error


@cache
def _runtime_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises: its classes of errors have no common base, and each version adds some."""
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    own = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (RuntimeError, ValueError, OSError, *own)


def _tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [each.ids for each in tokenizer.encode_batch_fast(list(texts))]


def _digest(text: str) -> bytes:
    try:
        return hashlib.blake2b(text.encode(), digest_size=16).digest()
    except UnicodeEncodeError as error:
        raise Invalid(f"text with a lone surrogate at position {error.start} cannot be embedded") from error
