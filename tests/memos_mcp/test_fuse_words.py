"""What is said of fused cubes names the adapters that went along, and the work that makes one of them."""

from __future__ import annotations

from typing import Any

from memos_mcp.tools.fuse import text

FUSED: dict[str, Any] = {
    "fused": {"cube": "all", "version": 1},
    "merged": ["m_1"],
    "conflicts": [],
    "groups": [],
    "content": None,
    "into": "all",
    "memories": 2,
    "joined": 0,
    "before": [],
}


def test_adapters_that_went_along_are_named_with_the_work_that_joins_them():
    said = text({**FUSED, "adapters": [1, 2], "work": "w_1"})
    assert said.endswith("It took over 2 adapters of these cubes; w_1 makes one of them in the background.")
    assert text({**FUSED, "adapters": [1], "work": None}).endswith("It took over 1 adapter of these cubes.")


def test_cubes_without_adapters_say_nothing_of_them():
    assert "adapter" not in text({**FUSED, "adapters": [], "work": None})
