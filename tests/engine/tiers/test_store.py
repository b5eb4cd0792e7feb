"""Stored KV caches are found, reused, written in the background, bounded, merged, evicted, and refused when damaged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engine.errors import Invalid
from engine.settings import Settings
from engine.tiers.kv.store import Scope
from tests.conftest import HandClock
from tests.engine.stores import say
from tests.engine.tiers.caches import (
    TOKEN_BYTES,
    Kept,
    equal,
    kept,
    layers_for,
    model,
    part,
    tokens,
    working,
)

INFO = model()
HOME, ME, BEN = Scope.cube("home"), Scope.talk("owner"), Scope.talk("ben")


def keep(store: Kept, ids: list[int], start: int = 0, scope: Scope = ME, sources: tuple[tuple[str, int], ...] = ()):
    layers = part(layers_for(ids), start, len(ids))
    return store.kv.keep_prefix(INFO, scope, scope.cube_name, ids, layers, start, sources)


def test_a_kept_prefix_is_reused_as_far_as_whole_blocks_are_the_same(settings: Settings) -> None:
    ids = tokens(100)
    with kept(settings) as store:
        assert store.filled(INFO, [ME], ids) == 0
        keep(store, ids)
        assert store.filled(INFO, [ME], ids) == 96
        assert store.filled(INFO, [ME], ids[:50]) == 48
        assert store.filled(INFO, [ME], [*ids[:40], 61, *ids[41:]]) == 32
        assert store.filled(INFO, [ME], [61, *ids[1:]]) == 0


def test_it_is_reused_after_a_restart_as_it_was(settings: Settings) -> None:
    ids = tokens(100)
    with kept(settings) as store:
        keep(store, ids)
    with kept(settings) as store:
        assert store.filled(INFO, [ME], ids) == 96
