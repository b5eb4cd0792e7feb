"""The arms of benchmarks/kv.py: ways to bring a memory before a model, each timed to the first token.

A model of random weights and a real shape, a head of `HEAD_TOKENS`, a memory of notes of `NOTE_TOKENS`, a question of
`QUESTION_TOKENS`. Every arm fills a `WorkingCache` in its way, and then all run the same `generate`. What is kept lies
in files of the engine's own format. Warm: what is kept lies in RAM, in the form in which it is stored. Cold: its files
are opened, checked against their digests and read, after the page cache was told to forget them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from engine.model.generation import generate
from engine.model.layouts import layout_of
from engine.model.loading import Loaded
from engine.model_operations import ModelInfo, Sampling
from engine.settings import Settings
from engine.tiers.kv import files
from engine.tiers.kv.compression import INT4, INT8, Packed, compressed, restored
from engine.tiers.kv.encoding import encode
from engine.tiers.kv.recompute import choose, recompute
from engine.tiers.kv.rotation import Part, place
from engine.tiers.kv.tensors import Layers, WorkingCache, bytes_of, sliced, tokens_of
from engine.vault.blobs import blob_path, keep_blob
from engine.vault.sealing import UNSEALED

HEAD_TOKENS, NOTE_TOKENS, QUESTION_TOKENS = 16, 64, 32
VOCABULARY = 32_000
ROOM_TOKENS = 64
FIRST_TOKEN = Sampling(max_tokens=1, temperature=0.0)
FULL, PREFIX, CHUNK, FLOOR = "full prefill", "prefix", "chunk", "floor"
COLD = ", cold"
Took = tuple[float, float]  # seconds to the first token: by the clock, of the processor


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a Qwen2 model. The vocabulary is that of none: a small one saves memory and is the same in all arms."""

    name: str
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int

    def __str__(self) -> str:
        return (
            f"{self.name} (hidden {self.hidden}, {self.layers} layers, {self.heads} heads, {self.kv_heads} KV heads of "
            f"{self.hidden // self.heads}, random weights, vocabulary {VOCABULARY:,})"
        )


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("0.5B", 896, 4_864, 24, 14, 2),
        Shape("8B", 4_096, 14_336, 32, 32, 8),
        Shape("small", 256, 512, 4, 4, 2),  # for a quick look at whether all arms run
    )
}


def random_model(shape: Shape, dtype: torch.dtype, device: torch.device) -> Loaded:
    """The same weights each time."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=65_536,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(VOCABULARY)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0")
    kind = str(dtype).removeprefix("torch.")
    info = ModelInfo(shape.name, "qwen2", "sha256:random", str(device), kind, model.num_parameters(), 65_536)
    return Loaded(model, tokenizer, info, layout_of(config, model), None)


@dataclass
class Store:
    """Files of kept caches, as the engine writes them, in a folder of their own."""

    folder: Path
    settings: Settings = field(init=False)

    def __post_init__(self) -> None:
        self.settings = Settings(data=self.folder, offline=True)
        self.settings.blobs_folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def keep(self, layers: Layers, how: str = files.NONE) -> files.TensorFile:
        file = files.encode(layers, how, {"form": "measured"})
        keep_blob(self.settings, file.digest, file.pieces(), UNSEALED)
        return files.TensorFile(file.head, (), file.size, file.digest)  # without the tensors, which lie in the file

    def read(self, file: files.TensorFile) -> Layers:
        return files.read(self.settings, file.digest, file.size, UNSEALED, {"form": "measured"})[0]

    def raw(self, file: files.TensorFile) -> bytes:
        return self._path(file).read_bytes()

    def forget(self, file: files.TensorFile) -> bool:
        """Ask that the page cache lets go of it; whether that can be asked here."""
        if not hasattr(os, "posix_fadvise"):
            return False
        with self._path(file).open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return True

    def _path(self, file: files.TensorFile) -> Path:
        return blob_path(self.settings, file.digest, UNSEALED)


class Bench:
    """One memory before one model, in all forms."""

    def __init__(self, loaded: Loaded, memory_tokens: int, store: Store) -> None:
        self._loaded, self._store = loaded, store
        drawn = torch.randint(3, VOCABULARY, (HEAD_TOKENS + memory_tokens + QUESTION_TOKENS,)).tolist()
        self.ids: list[int] = [int(token) for token in drawn]
        self._held = HEAD_TOKENS + memory_tokens
        self._spans = [
            (start, min(self._held, start + NOTE_TOKENS)) for start in range(HEAD_TOKENS, self._held, NOTE_TOKENS)
        ]
        cache = self._new()
        self._first_token(cache)
        whole = self._home(cache.taken(0, self._held))
        self._head = sliced(whole, 0, HEAD_TOKENS)
        self._notes = [self._home(encode(loaded, self.ids[start:end])) for start, end in self._spans]
        self._kept = {how: store.keep(whole, how) for how in (files.NONE, INT8, INT4)}
        self._note_files = [store.keep(note) for note in self._notes]
        self._head_file = store.keep(self._head)
        self._whole = store.read(self._kept[files.NONE])
        self._packed = {how: compressed(whole, how) for how in (INT8, INT4)}
        self._ready = self._of(self._whole)

    def bytes_a_token(self) -> dict[str, tuple[float, float]]:
        """On disk and in RAM, of each form."""
        notes = sum(tokens_of(note) for note in self._notes)
        made = {
            PREFIX: (self._kept[files.NONE].size / self._held, bytes_of(self._whole) / self._held),
            CHUNK: (sum(file.size for file in self._note_files) / notes, sum(map(bytes_of, self._notes)) / notes),
        }
        for how, packed in self._packed.items():
            made[how] = (self._kept[how].size / self._held, packed.bytes / self._held)
        return made

    def arms(self, shares: tuple[float, ...]) -> dict[str, Callable[[], Took]]:
        """Each gives what the first token took."""
        made: dict[str, Callable[[], Took]] = {
            FULL: lambda: self._timed(self._new),
            FLOOR: self._floor,
            PREFIX: lambda: self._timed(lambda: self._of(self._whole)),
            CHUNK: lambda: self._timed(lambda: self._chunks(self._notes, self._head, 0.0)),
        }
        for share in shares:
            made[f"{CHUNK} + {share:.0%}"] = lambda share=share: self._timed(
                lambda: self._chunks(self._notes, self._head, share)
            )
        for how, packed in self._packed.items():
            made[how] = lambda packed=packed: self._timed(lambda: self._of(self._unpacked(packed)))
        made[PREFIX + COLD] = lambda: self._cold(
            [self._kept[files.NONE]], lambda: self._of(self._store.read(self._kept[files.NONE]))
        )
        made[CHUNK + COLD] = lambda: self._cold([self._head_file, *self._note_files], self._cold_chunks)
        for how in self._packed:
            made[how + COLD] = lambda how=how: self._cold(
                [self._kept[how]], lambda: self._of(self._store.read(self._kept[how]))
            )
        return made

    def _new(self) -> WorkingCache:
        return WorkingCache(self._loaded.model.config, len(self.ids) + ROOM_TOKENS)

    def _of(self, layers: Layers) -> WorkingCache:
        cache = self._new()
        cache.append(self._here(layers))
        return cache

    def _unpacked(self, packed: Packed) -> Layers:
        return restored(packed, self._loaded.model.dtype, self._loaded.model.device)

    def _chunks(self, notes: list[Layers], head: Layers, share: float) -> WorkingCache:
        cache = self._of(head)
        place(cache, [Part(note) for note in notes], self._loaded.layout.rope)
        recompute(self._loaded, cache, self.ids, choose(share, self._spans))
        return cache

    def _cold_chunks(self) -> WorkingCache:
        return self._chunks([self._store.read(file) for file in self._note_files], self._store.read(self._head_file), 0)

    def _here(self, layers: Layers) -> Layers:
        return _on(layers, self._loaded.model.device)

    def _home(self, layers: Layers) -> Layers:
        return _on(layers, torch.device("cpu"))

    def _floor(self) -> Took:
        """What no form can beat: the bytes are read, and the question is prefilled behind a cache that is there."""
        self._ready.cut(self._held)

        def fill() -> WorkingCache:
            self._store.raw(self._kept[files.NONE])
            return self._ready

        return self._timed(fill)

    def _cold(self, kept: list[files.TensorFile], fill: Callable[[], WorkingCache]) -> Took:
        for file in kept:
            self._store.forget(file)
        return self._timed(fill)

    def _timed(self, fill: Callable[[], WorkingCache]) -> Took:
        self._settle()
        clock, processor = time.perf_counter(), time.process_time()
        self._first_token(fill())
        return time.perf_counter() - clock, time.process_time() - processor

    def _first_token(self, cache: WorkingCache) -> None:
        tokens = [step.token for step in generate(self._loaded, self.ids, cache, FIRST_TOKEN) if step.token is not None]
        assert len(tokens) == 1
        self._settle()

    def _settle(self) -> None:
        if self._loaded.model.device.type == "cuda":
            torch.cuda.synchronize()


def _on(layers: Layers, device: torch.device) -> Layers:
    return tuple((keys.to(device), values.to(device)) for keys, values in layers)
