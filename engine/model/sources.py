"""Where a model's files are: a folder, the local Hugging Face cache, or an announced download into it.

Only files that hold no code are ever fetched or used, and weights only as safetensors. It loads no torch, and without
the extra `local` says what to install. It does not look into the files.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

from engine.errors import Corrupt, NotFound, Unavailable
from engine.settings import Settings

NEEDED = ("torch", "transformers", "accelerate")
INSTALL = "install the extra local of memos-mcp, or: pip install torch transformers peft accelerate"
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
WANTED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
UNWANTED = ("*/*", "consolidated*")  # the same weights for other programs


def require_local() -> None:
    """Whether a model can be loaded at all.

    Raises:
        Unavailable: the extra `local` is not installed.
    """
    missing = [name for name in NEEDED if not _installed(name)]
    if missing:
        raise Unavailable(f"the local model needs {' and '.join(missing)}: {INSTALL}")


def located(source: str, settings: Settings, announce: Callable[[str], None]) -> Path:
    """The folder that holds the model `source`, a folder or a Hugging Face name.

    Raises:
        Unavailable: it is not on this machine and cannot or may not be downloaded, or has no safetensors weights.
        NotFound: there is no model of that name.
    """
    require_local()
    folder = Path(source).expanduser()
    if folder.is_dir():
        _check_whole(folder)
        return folder.resolve()
    if folder.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise NotFound(f"the model folder {source} does not exist: give a folder or a Hugging Face name")
    cached = _cached(source)
    if cached is not None:
        return cached
    if settings.offline:
        raise Unavailable(
            f"the model {source} is not on this machine, and downloads are off: fetch it with `hf download {source}`, "
            "or name a folder that holds it"
        )
    folder = _downloaded(source, announce)
    _check_whole(folder)
    return folder


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold the weights, adapters included, by name.

    Raises:
        Unavailable: there are none in safetensors, or some are missing.
        Corrupt: their index cannot be read.
    """
    extra = [path for path in (folder / "adapter_model.safetensors",) if path.is_file()]
    if (folder / WEIGHTS).is_file():
        return (*extra, folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        raise Unavailable(f"{folder} has no weights in safetensors, the only format that is loaded: convert them")
    try:
        names = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"{folder / INDEX} cannot be read ({error}): fetch the model again") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise Unavailable(f"{folder} lacks {', '.join(missing)}: fetch the model again")
    return (*extra, *(folder / name for name in names))


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _check_whole(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise Unavailable(f"{folder} has no {CONFIG}: it is not the folder of a Hugging Face model")
    weight_files(folder)


def _cached(name: str) -> Path | None:
    """The model in the local cache, if all of it is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(name, local_files_only=True, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED))
        )
        _check_whole(folder)
    except HFValidationError as error:
        raise NotFound(f"{name!r} is neither a folder nor a Hugging Face name such as Qwen/Qwen3-0.6B") from error
    except (LocalEntryNotFoundError, Unavailable):
        return None
    return folder


def _downloaded(name: str, announce: Callable[[str], None]) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError
    from huggingface_hub.utils import disable_progress_bars, filter_repo_objects

    disable_progress_bars()  # what is said goes through `announce`
    try:
        listed = HfApi().model_info(name, files_metadata=True).siblings or []
        wanted = filter_repo_objects(
            listed, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED), key=lambda file: file.rfilename
        )
        size = sum(file.size or 0 for file in wanted)
        announce(f"downloading the model {name} ({size / 1e9:.1f} GB) from Hugging Face to {constants.HF_HUB_CACHE}")
        return Path(snapshot_download(name, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)))
    except GatedRepoError as error:
        raise Unavailable(
            f"{name} is given only to people who accepted its terms: do so on its page, then `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise NotFound(
            f"Hugging Face has no model {name}, or it is private: see its spelling, or `hf auth login`"
        ) from error
    except (OSError, ValueError, HTTPError) as error:
        raise Unavailable(
            f"the model {name} is not on this machine and cannot be downloaded ({_line(error)}): try again later, "
            "or name a folder that holds it"
        ) from error


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
