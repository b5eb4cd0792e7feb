"""A process that is killed while it packs, installs or upgrades leaves what was before, or what is after.

`python -m tests.engine.kill_bundles` does the same thirty times each.
"""

from __future__ import annotations

import pytest

from tests.engine.kill_bundles import KINDS, Ground, prepare

FEW = 600


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return prepare(tmp_path_factory.mktemp("bundles"), FEW)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delay_s", [0.0, 0.2])
def test_a_kill_leaves_before_or_after(ground: Ground, kind: str, delay_s: float) -> None:
    assert KINDS[kind](ground, delay_s) in ("before", "after")
