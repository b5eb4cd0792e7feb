"""What a person may choose. Everything else follows from the data.

Settings come from the command line and the environment (`MEMOS_*`), are read once, and are handed down; nothing below
this module reads `MEMOS_*` (the embedder looks up where Hugging Face keeps its cache, as every library of theirs does).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import Invalid

DEFAULT_EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"
NO_EMBEDDER = "none"
DEFAULT_IDLE_S = 900.0
DEFAULT_BACKUPS_KEPT = 3
DEFAULT_BACKUP_EVERY_H = 24.0
DEFAULT_MODEL_IDLE_S = 1_800.0
DEFAULT_KV_RAM_MB, DEFAULT_KV_DISK_MB = 1_024.0, 8_192.0
DEFAULT_KV_SHARE = 0.3  # of each chunk's tokens that are recomputed: engine/tiers/kv/recompute.py has the measurements
DEFAULT_KV_BOUND = 0.05  # mean KL to full prefill, in nats, above which chunks of a cube are not used
DEFAULT_LORA_RAM_MB = 512.0
DEFAULT_LORA_KEPT = 5
DEFAULT_LORA_MINUTES = 60.0
DEFAULT_TRAINING_MINUTES = 30.0
SCHEDULER_PARTS = ("archive", "kv", "preload", "lora", "consolidate")
LOCAL_READER = "model"
DTYPES = ("auto", "float32", "bfloat16", "float16")
COMPRESSIONS = ("none", "int8", "int4")
TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
HOURS = re.compile(r"(\d{1,2}):([0-5]\d)-(\d{1,2}):([0-5]\d)")
FALSE_WORDS = frozenset({"0", "false", "no", "off", ""})


def default_data_folder() -> Path:
    """The platform's folder for user data. By hand: the bridge, which may load no library, has to find it too."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "memos-mcp"


@dataclass(frozen=True, slots=True)
class Settings:
    """One data folder and how it is served."""

    data: Path = field(default_factory=default_data_folder)
    embedder: str = DEFAULT_EMBEDDER  # a Hugging Face name, a path to a folder, or "none"
    offline: bool = False  # never download, whatever is missing
    idle_s: float = DEFAULT_IDLE_S  # a daemon that nobody talks to ends after this
    backups_kept: int = DEFAULT_BACKUPS_KEPT  # automatic backups in <data>/backups
    backup_every_h: float = DEFAULT_BACKUP_EVERY_H  # 0: no automatic backups
    key_file: Path | None = None  # holds the passphrase of an encrypted store, wherever its own note says
    model: str | None = None  # of the local model: a Hugging Face name, a folder, or the URL of an OpenAI-like server
    model_key: str = field(default="", repr=False)  # what that server wants as a bearer token; never logged
    model_name: str = ""  # which of that server's models; empty: its first
    model_device: str = "auto"  # cpu, cuda, cuda:N or mps
    model_dtype: str = "auto"  # float32, bfloat16 or float16
    model_context_tokens: int = 0  # 0: what the model was made for
    model_idle_s: float = DEFAULT_MODEL_IDLE_S  # a model that nobody uses is unloaded after this
    kv: bool = True  # whether the KV tier is used at all
    kv_ram_bytes: int = int(DEFAULT_KV_RAM_MB * 1e6)
    kv_disk_bytes: int = int(DEFAULT_KV_DISK_MB * 1e6)
    kv_share: float = DEFAULT_KV_SHARE
    kv_bound: float = DEFAULT_KV_BOUND
    kv_compression: str = "none"  # of what is stored: none, int8 or int4
    lora: bool = True  # whether the LoRA tier is used at all
    lora_ram_bytes: int = int(DEFAULT_LORA_RAM_MB * 1e6)  # of adapters that are resident in the model
    lora_kept: int = DEFAULT_LORA_KEPT  # versions of a cube's adapter that are kept
    lora_minutes: float = DEFAULT_LORA_MINUTES  # one training ends after so many, with what it has
    lora_bytes: int = 0  # of memory that one training may add; 0: no limit
    scheduler: tuple[str, ...] = SCHEDULER_PARTS  # the parts that are on
    quiet_hours: tuple[tuple[int, int], ...] = ()  # minutes of the day, local time: from, to
    training_minutes: float = DEFAULT_TRAINING_MINUTES  # that the scheduler may train in any 24 hours
    reader: str | None = None  # who draws facts from conversations: "model" (the local one) or a URL; None: nobody
    reader_key: str = field(default="", repr=False)  # as `model_key`
    reader_name: str = ""  # as `model_name`

    @property
    def database(self) -> Path:
        return self.data / "vault.duckdb"

    @property
    def index_folder(self) -> Path:
        return self.data / "index"

    @property
    def models_folder(self) -> Path:
        return self.data / "models"

    @property
    def backups_folder(self) -> Path:
        return self.data / "backups"

    @property
    def blobs_folder(self) -> Path:
        return self.data / "blobs"

    @property
    def checkpoints_folder(self) -> Path:
        """Of trainings that are under way; what is left of a killed one is gone on from."""
        return self.data / "checkpoints"

    @property
    def keys_folder(self) -> Path:
        return self.data / "keys"

    @property
    def encryption_note(self) -> Path:
        return self.data / "encryption.json"

    @property
    def damaged_folder(self) -> Path:
        return self.data / "damaged"


def settings_from(environment: Mapping[str, str], *, data: Path | None = None) -> Settings:
    """Settings from `MEMOS_*` variables; an explicit `data` folder wins.

    Raises:
        Invalid: a variable that does not say what it must say; the message names it.
    """
    base = Settings()
    key_file = environment.get("MEMOS_KEY_FILE")
    folder = data or (Path(environment["MEMOS_DATA"]) if environment.get("MEMOS_DATA") else base.data)
    return Settings(
        data=folder.expanduser().absolute(),
        embedder=environment.get("MEMOS_EMBEDDER") or base.embedder,
        offline=_flag(environment, "MEMOS_OFFLINE", base.offline),
        idle_s=_number(environment, "MEMOS_IDLE_S", base.idle_s),
        backups_kept=int(_number(environment, "MEMOS_BACKUPS_KEPT", base.backups_kept)),
        backup_every_h=_number(environment, "MEMOS_BACKUP_EVERY_H", base.backup_every_h),
        key_file=Path(key_file).expanduser().absolute() if key_file else None,
        model=environment.get("MEMOS_MODEL") or None,
        model_key=environment.get("MEMOS_MODEL_KEY", ""),
        model_name=environment.get("MEMOS_MODEL_NAME", ""),
        model_device=environment.get("MEMOS_MODEL_DEVICE") or base.model_device,
        model_dtype=_choice(environment, "MEMOS_MODEL_DTYPE", base.model_dtype, DTYPES),
        model_context_tokens=int(_number(environment, "MEMOS_MODEL_CONTEXT", base.model_context_tokens)),
        model_idle_s=_number(environment, "MEMOS_MODEL_IDLE_S", base.model_idle_s),
        kv=_flag(environment, "MEMOS_KV", base.kv),
        kv_ram_bytes=int(1e6 * _number(environment, "MEMOS_KV_RAM_MB", DEFAULT_KV_RAM_MB)),
        kv_disk_bytes=int(1e6 * _number(environment, "MEMOS_KV_DISK_MB", DEFAULT_KV_DISK_MB)),
        kv_share=_share(environment, "MEMOS_KV_SHARE", base.kv_share),
        kv_bound=_number(environment, "MEMOS_KV_BOUND", base.kv_bound),
        kv_compression=_choice(environment, "MEMOS_KV_COMPRESSION", base.kv_compression, COMPRESSIONS),
        lora=_flag(environment, "MEMOS_LORA", base.lora),
        lora_ram_bytes=int(1e6 * _number(environment, "MEMOS_LORA_RAM_MB", DEFAULT_LORA_RAM_MB)),
        lora_kept=max(1, int(_number(environment, "MEMOS_LORA_KEPT", base.lora_kept))),
        lora_minutes=_number(environment, "MEMOS_LORA_MINUTES", base.lora_minutes),
        lora_bytes=int(1e6 * _number(environment, "MEMOS_LORA_MB", 0.0)),
        scheduler=_parts(environment, "MEMOS_SCHEDULER", base.scheduler),
        quiet_hours=_hours(environment, "MEMOS_QUIET_HOURS"),
        training_minutes=_number(environment, "MEMOS_TRAINING_MINUTES", base.training_minutes),
        reader=_reader(environment, "MEMOS_READER"),
        reader_key=environment.get("MEMOS_READER_KEY", ""),
        reader_name=environment.get("MEMOS_READER_NAME", ""),
    )


def environment_settings(*, data: Path | None = None) -> Settings:
    """Settings from this process's environment."""
    return settings_from(os.environ, data=data)


def _flag(environment: Mapping[str, str], name: str, default: bool) -> bool:
    value = environment.get(name)
    if value is None:
        return default
    word = value.strip().lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise Invalid(f"{name} is {value!r}: use 1 or 0")


def _choice(environment: Mapping[str, str], name: str, default: str, choices: Sequence[str]) -> str:
    value = environment.get(name)
    if not value:
        return default
    if value not in choices:
        raise Invalid(f"{name} is {value!r}: use one of {', '.join(choices)}")
    return value


def _reader(environment: Mapping[str, str], name: str) -> str | None:
    """The local model, or the URL of a server. What is neither is not repeated where it may hold a key."""
    value = environment.get(name, "").strip()
    if not value or value == LOCAL_READER or value.lower().startswith(("http://", "https://")):
        return value or None
    shown = repr(value) if "/" not in value and "@" not in value else "no http URL"
    raise Invalid(f"{name} is {shown}: use {LOCAL_READER} for the local model, or the URL of a server")


def _parts(environment: Mapping[str, str], name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """Parts of the scheduler: `all`, `off`, or some of them joined by commas."""
    value = environment.get(name, "all").strip().lower() or "all"
    if value in ("all", *TRUE_WORDS):
        return default
    if value in FALSE_WORDS:
        return ()
    parts = tuple(part.strip() for part in value.split(","))
    if set(parts) - set(SCHEDULER_PARTS):
        raise Invalid(f"{name} is {value!r}: use all, off, or some of {', '.join(SCHEDULER_PARTS)} joined by commas")
    return tuple(part for part in SCHEDULER_PARTS if part in parts)


def _hours(environment: Mapping[str, str], name: str) -> tuple[tuple[int, int], ...]:
    """Spans of the day as `22:00-07:00`, several joined by commas."""
    spans = []
    for span in filter(None, (span.strip() for span in environment.get(name, "").split(","))):
        found = HOURS.fullmatch(span)
        minutes = (
            [
                60 * int(hour) + int(minute)
                for hour, minute in zip(found.groups()[::2], found.groups()[1::2], strict=True)
            ]
            if found
            else []
        )
        if len(minutes) != 2 or max(minutes) >= 24 * 60 or minutes[0] == minutes[1]:
            raise Invalid(f"{name} is {span!r}: say from when to when, as 22:00-07:00")
        spans.append((minutes[0], minutes[1]))
    return tuple(spans)


def _share(environment: Mapping[str, str], name: str, default: float) -> float:
    value = _number(environment, name, default)
    if value > 1:
        raise Invalid(f"{name} is {value}: a share is a number from 0 to 1")
    return value


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    value = environment.get(name)
    if not value:
        return default
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise Invalid(f"{name} is {value!r}: use a number that is not negative")
    return number
