"""What can be asked of the local model and of the KV tier, and what they answer: immutable values, without a tensor.

As `engine.operations`, for conversations with the local model. Nothing here knows how requests travelled, and importing
it loads no torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from engine.operations import DEFAULT_CUBE, RECALL_LIMIT

MAX_CHAT_TURNS = 10_000
MAX_CHAT_CHARS = 2_000_000  # of all turns together
MAX_NEW_TOKENS = 32_768
DEFAULT_NEW_TOKENS = 512
MAX_STOPS = 16
MAX_STOP_CHARS = 256
UNNAMED = "model"  # how a folder is shown whose path ends in no name


class Tier(StrEnum):
    """From where a model may take memory."""

    TEXT = "text"
    KV = "kv"
    LORA = "lora"


class Form(StrEnum):
    """In which form a memory reached the model."""

    TEXT = "text"  # prefilled as text
    PREFIX = "prefix"  # exact: its KV cache was part of a stored prefix
    CHUNK = "chunk"  # its own KV cache, re-rotated to where it stands, some of it recomputed
    LORA = "lora"  # not given: the adapter that the reply goes through is proven to know it


def shown_source(source: str, *, owner: bool) -> str:
    """A model's source as it is shown: that of a folder only to the owner as it was given, to others its last part.

    What can be nothing but a path counts as a folder: `models/small` could be a Hugging Face name, and is shown whole.
    """
    can_be_a_name = not source.startswith(("/", ".", "~")) and source.count("/") <= 1 and "\\" not in source
    if owner or can_be_a_name or "://" in source:
        return source
    parts = [part for part in re.split(r"[/\\]", source) if part.strip(".") and not part.startswith("~")]
    return parts[-1] if parts else UNNAMED


def is_called(source: str, name: str) -> bool:
    """Whether a request for `name` means the model `source`. Anyone may use its whole source or its last part."""
    return name in (source, shown_source(source, owner=False))


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model, as it is shown to people. `kv_refusal` says why the KV tier does not serve it; None: it does."""

    source: str  # a Hugging Face name, a folder, or the URL of a server
    family: str  # model_type of its configuration
    fingerprint: str  # over weights, configuration, tokenizer, template, dtype, RoPE parameters, adapters
    device: str  # cpu, cuda:0, mps; empty: remote
    dtype: str
    parameters: int
    context_tokens: int
    kv_bytes_per_token: int = 0
    kv_refusal: str | None = None
    remote: bool = False
    base: str = ""  # the fingerprint without the adapter, where the model is seen through one

    @property
    def name(self) -> str:
        """How it is called in messages that anyone may read."""
        return shown_source(self.source, owner=False)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 takes the likeliest one."""

    max_tokens: int = DEFAULT_NEW_TOKENS
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0  # 0: no bound
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """One turn of a conversation with the model. `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Which memory a conversation may use, and from which tiers. Pinned memories of `cubes` always come along."""

    cubes: tuple[str, ...] | None = (DEFAULT_CUBE,)  # None: all that the caller may read
    tiers: tuple[Tier, ...] = (Tier.TEXT, Tier.KV, Tier.LORA)
    limit: int = RECALL_LIMIT


@dataclass(frozen=True, slots=True)
class Chat:
    """Continue a conversation whose last turn is the user's. `memory` None: without memory."""

    turns: tuple[ChatTurn, ...]
    memory: MemoryUse | None = None
    sampling: Sampling = field(default_factory=Sampling)
    model: str | None = None  # None: the one that is served


@dataclass(frozen=True, slots=True)
class Used:
    """A memory that the model was given, or knows."""

    id: str
    version: int
    cube: str
    form: Form
    content: str
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """What a reply was made from, and what that cost."""

    used: tuple[Used, ...] = ()
    prompt_tokens: int = 0
    reused_tokens: int = 0  # of them, whose KV was not computed anew
    recomputed_tokens: int = 0  # of chunks, computed anew although a KV cache of them was there
    ttft_ms: float = 0.0  # from the request to the first token
    left_out_turns: int = 0  # oldest turns that did not fit into the model's context
    left_out_memories: int = 0
    saved_tokens: int = 0  # that memories would have cost which the adapter knows
    adapter: str = ""  # through which the reply went: its cube and version
    remarks: tuple[str, ...] = ()  # what was degraded, refused or chosen, in words

    @property
    def tier(self) -> str:
        """The forms that were used, in words: none, text, prefix, chunk, lora, or several joined by +."""
        forms = {used.form for used in self.used}
        return "+".join(form.value for form in Form if form in forms) or "none"


@dataclass(frozen=True, slots=True)
class Recalling:
    """Comes first: what the model is given. Its token counts and time are known only at the end."""

    report: MemoryReport


@dataclass(frozen=True, slots=True)
class Said:
    """Some more of the reply; empty: work went on, and there is nothing to show yet. Here a reply can be stopped."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Comes last. `reason`: stop (it ended by itself or at a stop string) or length."""

    text: str  # the whole reply
    reason: str
    completion_tokens: int
    report: MemoryReport
    model: ModelInfo


ChatEvent = Recalling | Said | Finished


@dataclass(frozen=True, slots=True)
class TierRow:
    """One KV cache that is kept, as it is shown to people."""

    id: str
    cube: str
    kind: str  # kv, lora
    form: str  # prefix or chunk, with how it is compressed
    tokens: int
    bytes: int
    memories: int
    model: str  # fingerprint
    usable: bool  # by the model that is configured
    uses: int
    divergence: float | None  # mean KL to full prefill as measured when it was built
    created_at: datetime
    sources: tuple[tuple[str, int], ...] = ()  # (memory id, version)


@dataclass(frozen=True, slots=True)
class TierBuilt:
    """What building did."""

    cube: str
    prefix_tokens: int
    chunks: int
    bytes: int
    skipped: tuple[tuple[str, str], ...] = ()  # (memory id, why)
