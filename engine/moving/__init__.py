"""Moves of memories between tiers, and what callers may do with adapters."""

from engine.moving.moving import Moving

__all__ = ["Moving"]
