"""Adapters that are resident in one loaded model, and which of them a request goes through.

The base model is wrapped in place, so all share its weights. `wearing` gives the model as seen through one adapter (or
through none): whoever uses it switches for itself before each forward pass, so jobs that take turns on the model's
thread do not see each other's adapter, and nothing is reloaded. A batch may have another adapter for each row. What was
computed with an adapter has a fingerprint of its own, so no KV cache is shared between adapters.

What must stay true: nothing but an adapter in training requires gradients; no adapter is active but during a forward
pass that asked for it; the base, unworn, is bit for bit what it was; the adapters that were loaded stay within the
budget: the longest unused go first, and none that a request still sees the model through. Switching does not go through
PEFT's `set_adapter`, which takes milliseconds and turns `requires_grad` on: it sets what that sets. Used on the model's
thread only. Where adapters come from and who may use them is not known here.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer

from engine.errors import Busy, Conflict, Corrupt, Invalid, NotFound, TooLarge
from engine.model.fingerprint import with_adapters
from engine.tiers.lora.files import Card, read_adapter
from engine.tiers.lora.fitting import needed_bytes, out_of_memory

if TYPE_CHECKING:
    from engine.model.loading import Loaded

BASE = "__base__"  # in a mixed batch: no adapter; PEFT's own word
NAME = re.compile(r"(?!.*lora_)[A-Za-z0-9_-]{1,128}")  # PEFT makes module names of them


@dataclass(slots=True)
class Adapter:
    """A resident adapter. `digest` is that of its weights; None: it is being made."""

    name: str
    bytes: int
    digest: str | None
    kept: bool  # never evicted: it is being made
    card: Card | None = None
    used: int = 0
    wearers: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)  # requests that see the model through it


class Resident:
    """The adapters of one loaded model."""

    def __init__(self, loaded: Loaded, budget_bytes: int) -> None:
        self.base = loaded
        self._budget = budget_bytes
        self._peft: Any = None
        self._layers: tuple[Any, ...] = ()
        self._adapters: dict[str, Adapter] = {}
        self._dead: set[str] = set()  # names; added to by any thread
        self._clock = 0

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The resident ones, the longest unused first."""
        return tuple(sorted(self._adapters.values(), key=lambda one: one.used))

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in self._adapters.values())

    def load(self, name: str, folder: Path) -> Adapter:
        """Make an adapter resident, unless it is; others that are not used go if the budget asks for it.

        Raises:
            Conflict: it was made for another model, or the name is taken by another adapter.
            NotFound, Corrupt, Invalid: as `read_adapter`.
            TooLarge: it alone is larger than the budget.
            Busy: there is no room while requests use the others.
        """
        return self.take(name, *read_adapter(folder, self.base.info.fingerprint))

    def take(self, name: str, config: Any, tensors: Mapping[str, torch.Tensor], card: Card) -> Adapter:
        """As `load`, of what was read already; nothing is made of weights that do not fit, however few they are."""
        known = self._adapters.get(name)
        if known is not None:
            if known.digest != card.digest:
                raise Conflict(f"the adapter {name} is resident with other weights: drop it first")
            return self._touched(known)
        self._make_room(name, needed_bytes(self.base.model, config, tensors, name))
        return self.add(name, config, tensors, card)

    def add(
        self, name: str, config: Any, tensors: Mapping[str, torch.Tensor] | None = None, card: Card | None = None
    ) -> Adapter:
        """An adapter with these weights; without any a fresh one, which changes nothing yet.

        Its first weights are drawn from torch's generator. Without a card it is being made: it is never evicted.

        Raises:
            Invalid, Conflict: the name cannot be, or is taken.
            Corrupt: it does not fit the model.
            Busy: there is not enough memory now.
        """
        if not NAME.fullmatch(name) or name in "lora_":
            raise Invalid(f"{name!r} cannot name an adapter: use letters, digits, - and _, and not lora_")
        if name in self._adapters:
            raise Conflict(f"there is an adapter {name} already: drop it first")
        try:
            with torch.inference_mode(False):  # weights of the inference mode could never be trained
                if self._peft is None:
                    self._peft = get_peft_model(self.base.model, config, adapter_name=name)
                else:
                    self._peft.add_adapter(name, config)
                if tensors is not None:
                    self._fill(name, tensors)
        except (RuntimeError, ValueError, KeyError, MemoryError) as error:
            self._discard(name)
            if out_of_memory(error):
                raise Busy(
                    f"there is not enough memory for the adapter {name} now: ask again when other programs use "
                    "less, or choose a smaller model"
                ) from error
            raise Corrupt(f"the adapter {name} does not fit the model ({error}): make it anew") from error
        return self._adopted(name, card)

    def combine(self, name: str, parts: Sequence[str], weights: Sequence[float], how: str, **settings: Any) -> Adapter:
        """Make an adapter of resident ones by PEFT's `add_weighted_adapter`."""
        for part in parts:
            self.known(part)
        if name in self._adapters:  # PEFT would do nothing, silently
            raise Conflict(f"there is an adapter {name} already: drop it first")
        with torch.inference_mode(False), torch.no_grad():
            self._peft.add_weighted_adapter(list(parts), list(weights), name, combination_type=how, **settings)
        return self._adopted(name, None)

    def drop(self, name: str) -> None:
        """Take an adapter out; without adapters the model is again what it was before the first."""
        self.known(name)
        del self._adapters[name]
        self._settle()
        if self._adapters:
            self._peft.delete_adapter(name)
            self._settle()
        else:
            self._peft.unload()
            self._peft, self._layers = None, ()

    def kill(self, names: Collection[str]) -> None:
        """From now on nothing is said through these: whoever still sees the model so is refused. From any thread.

        Their weights go with `bury`, on the model's thread.
        """
        self._dead.update(names)

    def bury(self) -> None:
        """Drop the weights of what was killed."""
        for name in self._dead & self._adapters.keys():
            self.drop(name)

    @property
    def has_dead(self) -> bool:
        return not self._dead.isdisjoint(self._adapters.copy())

    def require_alive(self, name: str) -> None:
        """Raises: Conflict: it was killed."""
        if name in self._dead:
            raise Conflict(
                "the adapter that answered was taken out of service meanwhile, as a memory that it was made from "
                "changed or was erased, or somebody dropped it: ask again"
            )

    def close(self) -> None:
        for name in list(self._adapters):
            self.drop(name)

    def known(self, name: str) -> Adapter:
        """Raises: NotFound: it is not resident."""
        if name not in self._adapters:
            raise NotFound(f"the adapter {name} is not resident: load it")
        return self._adapters[name]

    def config(self, name: str) -> LoraConfig:
        self.known(name)
        return self._peft.peft_config[name]

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Its weights, by the names that PEFT gives them in files."""
        self.known(name)
        found = get_peft_model_state_dict(self._peft, adapter_name=name, save_embedding_layers=False)
        return {key: tensor.detach() for key, tensor in found.items()}

    def parameters(self, name: str) -> list[torch.nn.Parameter]:
        """Its weights, for an optimiser, in the order of modules; they require gradients while it is made."""
        self.known(name)
        found = []
        for layer in self._layers:
            for part in layer.adapter_layer_names:
                held = getattr(layer, part)
                if name in held:
                    module = held[name]
                    found += [module] if isinstance(module, torch.nn.Parameter) else list(module.parameters())
        return found

    def finish(self, name: str, card: Card) -> Adapter:
        """An adapter is made: from now on it is held still, and may be evicted."""
        made = self.known(name)
        made.digest, made.card, made.kept = card.digest, card, False
        self._settle()
        return made

    def wearing(self, name: str | None) -> Loaded:
        """The model as it is seen through an adapter; None: through none."""
        if name is None:
            return replace(self.base, model=_Worn(self, None, self.base.model))
        adapter = self._touched(self.known(name))
        info = self.base.info
        if adapter.digest is not None:
            seen = with_adapters(info.fingerprint, [adapter.digest])
            info = replace(info, fingerprint=seen, base=info.fingerprint)
        worn = _Worn(self, name, self.base.model)
        adapter.wearers.add(worn)
        return replace(self.base, model=worn, info=info)

    def mixing(self) -> Loaded:
        """The model whose forward takes `adapter_names`, one for each row of a batch, `BASE` for none."""
        return replace(self.base, model=_Mixed(self, self.base.model))

    def activate(self, name: str | None) -> None:
        """What the next forward pass goes through. Who calls this turns it off before the next step of another job."""
        if name is not None:
            self.require_alive(name)
            self.known(name)
        names = [] if name is None else [name]
        for layer in self._layers:
            layer._active_adapter = names

    def mixed(self, model: Any, names: Sequence[str], given: Mapping[str, Any]) -> Any:
        worn = set(names) - {BASE}
        for name in worn:
            self.require_alive(name)
            self._touched(self.known(name))
        if self._peft is None:
            return model(**given)
        self._peft.active_adapter = next(iter(self._adapters))
        output = self._peft(adapter_names=list(names), **given)
        for name in worn:
            self.require_alive(name)
        return output

    def _fill(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Give an adapter its weights: all that it has, and none besides."""
        wanted = get_peft_model_state_dict(self._peft, adapter_name=name, save_embedding_layers=False)
        if {key: one.shape for key, one in wanted.items()} != {key: one.shape for key, one in tensors.items()}:
            raise ValueError("its weights have other names or shapes")
        set_peft_model_state_dict(self._peft, dict(tensors), adapter_name=name)

    def _discard(self, name: str) -> None:
        """Take out what could not be added, of whatever PEFT did before it stopped."""
        layers = [(at, part) for at, part in self.base.model.named_modules() if isinstance(part, BaseTunerLayer)]
        if self._adapters:
            self._peft.peft_config.pop(name, None)
            for _, layer in layers:
                layer.delete_adapter(name)
            self._settle()
            return
        for at, layer in layers:
            self.base.model.set_submodule(at, layer.get_base_layer())
        self._peft, self._layers = None, ()

    def _adopted(self, name: str, card: Card | None) -> Adapter:
        self._layers = tuple(part for part in self._peft.modules() if isinstance(part, BaseTunerLayer))
        made = Adapter(name, 0, card.digest if card else None, card is None, card)
        self._adapters[name] = made
        made.bytes = sum(weights.nbytes for weights in self.parameters(name))
        self._settle()
        return self._touched(made)

    def _settle(self) -> None:
        """Undo what PEFT turns on in passing: gradients, training mode and the active adapter."""
        self._peft.eval()
        self.activate(None)
        self._peft.base_model.active_adapter = []
        for parameter in self._peft.parameters():
            parameter.requires_grad_(False)
        for one in self._adapters.values():
            if one.kept:
                for parameter in self.parameters(one.name):
                    parameter.requires_grad_(True)

    def _touched(self, adapter: Adapter) -> Adapter:
        self._clock += 1
        adapter.used = self._clock
        return adapter

    def _make_room(self, name: str, needed: int) -> None:
        if needed > self._budget:
            raise TooLarge(f"the adapter {name} has {needed} bytes, the budget is {self._budget}: raise it")
        for one in self.adapters:
            if self.bytes + needed <= self._budget:
                return
            if not one.kept and not one.wearers:
                self.drop(one.name)
        if self.bytes + needed > self._budget:
            raise Busy(f"there is no room for the adapter {name} while requests use the others: ask again")


class _Worn:
    """A model that switches to its adapter for each forward pass, and back to none behind it."""

    def __init__(self, resident: Resident, name: str | None, part: Any) -> None:
        self._resident, self._name, self._part = resident, name, part

    def __call__(self, *given: Any, **named: Any) -> Any:
        self._resident.activate(self._name)
        try:
            output = self._part(*given, **named)
        finally:
            self._resident.activate(None)
        if self._name is not None:
            self._resident.require_alive(self._name)  # it may have been killed meanwhile
        return output

    def get_decoder(self) -> _Worn:
        return _Worn(self._resident, self._name, self._part.get_decoder())

    def get_base_model(self) -> Any:
        return self._part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)


class _Mixed(_Worn):
    """A model that takes an adapter for each row."""

    def __init__(self, resident: Resident, part: Any) -> None:
        super().__init__(resident, None, part)

    def __call__(self, *given: Any, **named: Any) -> Any:
        names = named.pop("adapter_names", None)
        if names is None or given:
            raise Invalid("a mixed batch names its input and an adapter for each row: give both by name")
        return self._resident.mixed(self._part, names, named)
