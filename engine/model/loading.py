"""Loads a Hugging Face causal model."""
from __future__ import annotations
from dataclasses import dataclass
from typing import Any
from engine.model.layouts import Layout
from engine.model_operations import ModelInfo

@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    model: Any
    tokenizer: Any
    info: ModelInfo
    layout: Layout
    template: str | None
