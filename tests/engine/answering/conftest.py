"""The trained adapters of `tests.engine.tiers.lora`, for replies that go through them."""

from tests.engine.tiers.lora.conftest import first, loaded, second

__all__ = ["first", "loaded", "second"]
