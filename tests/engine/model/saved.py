"""Model folders as people have them: random weights, a real tokenizer, a chat template."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from engine.model.loading import Loaded, load
from engine.settings import Settings
from tests.engine.model.families import kept_config
from tests.engine.model.small import CHATML, tokenizer_of


def saved(
    folder: Path,
    name: str = "qwen2",
    *,
    template: str | None = CHATML,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    shard_size: str = "5GB",
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> Path:
    """A folder with a model of `tests.engine.model.families`."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(kept_config(name), dtype=dtype)
    model.save_pretrained(folder, max_shard_size=shard_size)
    (tokenizer or tokenizer_of("bytes")).save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, "utf-8")
    return folder


def settings(data: Path, **more: object) -> Settings:
    return Settings(data=data, offline=True, **more)  # type: ignore[arg-type]


def opened(folder: Path, data: Path, **more: object) -> Loaded:
    return load(str(folder), settings(data, **more), lambda _: None)
