"""The seam between text and vectors: what an embedder is, and the one that the settings ask for.

There is no stand-in: without a model there is no embedder, and `Unavailable` says how to get one. A vector never comes
from anything but the model that the fingerprint names.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import Unavailable
from engine.index.digests import Digests
from engine.index.model_folder import read_recipe
from engine.index.onnx_embedder import OnnxEmbedder
from engine.index.weights import ALL_MINILM, cached_snapshot, pinned_recipe, recipe_if_pinned
from engine.settings import NO_EMBEDDER, Settings

RUNTIMES = ("onnxruntime", "tokenizers")


class Embedder(Protocol):
    """Turns texts into vectors. Equal fingerprints promise equal vectors for equal texts."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [len(texts), dimension] with L2 norm 1, in the order of the texts; may be called from any thread.

        Raises:
            Invalid: a text that is not Unicode (a lone surrogate).
            Unavailable, Corrupt: the model cannot be loaded.
        """
        ...


def open_embedder(
    settings: Settings, announce: Callable[[str], None], environment: Mapping[str, str] | None = None
) -> Embedder:
    """The embedder of the settings, its files found and checked; the model itself is loaded by the first `embed`.

    Takes milliseconds, but for the one download of the default model where it is nowhere on the machine and
    `settings.offline` is false: call it off the event loop. `environment` (the process's) says where the Hugging Face
    cache is.

    Raises:
        Unavailable: there is no model to be had; the message says how to get one.
        Corrupt: model files are damaged; the message names the file and the remedy.
    """
    environment = os.environ if environment is None else environment
    wanted = settings.embedder
    if wanted == NO_EMBEDDER:
        raise Unavailable("the embedder is switched off (MEMOS_EMBEDDER=none)")
    for runtime in RUNTIMES:
        if importlib.util.find_spec(runtime) is None:
            raise Unavailable(f"the package {runtime} is not installed: pip install {runtime}")
    if wanted in (ALL_MINILM.name, ALL_MINILM.name.rpartition("/")[2]):
        return OnnxEmbedder(pinned_recipe(ALL_MINILM, settings, environment, announce))
    digests = Digests(settings.models_folder / "verified.json")
    folder = Path(wanted).expanduser()
    if folder.is_dir():
        recipe = recipe_if_pinned(ALL_MINILM, folder, digests) or read_recipe(folder, folder.resolve().name, digests)
        return OnnxEmbedder(recipe)
    cached = cached_snapshot(wanted, environment)
    if cached is None:
        raise Unavailable(
            f"the embedder {wanted} is neither a folder nor in the Hugging Face cache: "
            f"set MEMOS_EMBEDDER to a folder that holds it, or fetch it with `hf download {wanted}`"
        )
    return OnnxEmbedder(read_recipe(cached, wanted, digests))
