"""Cubes as they grow in use: random ones, with everything that a memory can be, through the engine's own operations."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from cubes import CubePolicy, Sensitivity
from engine.cube_operations import Govern, SetCube
from engine.errors import MemosError
from engine.memos import MemOS
from engine.operations import Forget, Fuse, Mode, Recall, Remember, Turn
from tests.conftest import HandClock
from tests.engine.stores import ME

ODD = (
    "naïve café",
    "数据 记忆",
    "🜁 ✓ 👩‍👩‍👧",
    "e\u0301 and é",
    "tab\tand\nlines",
    '"quotes" \\ back',
    "مرحبا",
    "\u2028 line",
)
WORDS = ("harbour", "Anna", "bees", "lamp", "Monday", "boat", "report", "tide", "Kreuzberg", "eight", "roof", "wifi")
LONG = "Sentence number {} of the long report says that tide {} was higher than the one before. "


class Growing:
    """One cube of a store, and a source of chance."""

    def __init__(self, memos: MemOS, cube: str, chance: random.Random, clock: HandClock) -> None:
        self.memos, self.cube, self.chance, self.clock = memos, cube, chance, clock
        self.ids: list[str] = []

    def grow(self, steps: int) -> None:
        """So many random operations; those that the present state refuses count as well."""
        operations: list[tuple[int, Callable[[], None]]] = [
            (8, self.fact),
            (2, self.conversation),
            (1, self.long_text),
            (3, self.supersede),
            (2, self.rival),
            (2, self.fuse),
            (2, self.archive),
            (2, self.restore),
            (3, self.govern),
            (2, self.use),
            (1, self.erase),
            (1, self.let_go),
            (2, self.wait),
            (1, self.name_the_moment),
        ]
        weights = [weight for weight, _ in operations]
        for _ in range(steps):
            (_, operation) = self.chance.choices(operations, weights)[0]
            try:
                operation()
            except MemosError:
                continue

    def words(self) -> str:
        some = self.chance.sample(WORDS, self.chance.randint(2, 5))
        return f"{' '.join(some)} {self.chance.choice(ODD)} {self.chance.randrange(1_000)}"

    def some(self, most: int) -> tuple[str, ...]:
        return tuple(self.chance.sample(self.ids, min(len(self.ids), self.chance.randint(1, most))))

    def keep(self, request: Remember) -> None:
        self.ids += [item.id for item in self.memos.remember(replace(request, cube=self.cube), ME).stored]

    def fact(self) -> None:
        self.keep(
            Remember(
                content=self.words(),
                tags=tuple(self.chance.sample(ODD, self.chance.randint(0, 2))),
                source=self.chance.choice((None, "https://example.org/a?b=ü", "notes.md")),
                occurred_at=self.chance.choice((None, self.clock.now())),
                expires_in_days=self.chance.choice((None, None, 0.5, 30)),
                sensitivity=self.chance.choice((None, *Sensitivity)),
            )
        )

    def conversation(self) -> None:
        turns = (Turn(self.chance.choice(("user", "assistant")), self.words(), name="Zoë") for _ in range(3))
        self.keep(Remember(messages=tuple(turns), source=f"talk {self.chance.randrange(3)}"))

    def long_text(self) -> None:
        self.keep(Remember(content="".join(LONG.format(n, self.chance.randrange(99)) for n in range(60))))

    def supersede(self) -> None:
        self.keep(Remember(content=self.words(), supersedes=self.some(1)))

    def rival(self) -> None:
        self.keep(Remember(content=f"The office wifi is on channel {self.chance.randint(1, 11)}."))

    def fuse(self) -> None:
        fused = self.memos.fuse(Fuse(ids=self.some(3)), ME)
        self.ids += [fused.id] if fused.id else []

    def archive(self) -> None:
        self.memos.forget(Forget(ids=self.some(2), reason=self.chance.choice((None, "Aufräumen – äöü"))), ME)

    def restore(self) -> None:
        for id in self.some(1):
            self.memos.restore(id, self.chance.randint(1, 3), ME, "as it was")

    def govern(self) -> None:
        self.memos.govern(
            Govern(
                ids=self.some(2),
                pinned=self.chance.choice((None, True, False)),
                frozen=self.chance.choice((None, None, True, False)),
                priority=self.chance.choice((None, -3, 7)),
                sensitivity=self.chance.choice((None, *Sensitivity)),
                tags=self.chance.choice((None, ("a", "ß"))),
                reason="ordnung",
            ),
            ME,
        )

    def use(self) -> None:
        self.memos.recall(Recall(query=self.words(), cubes=(self.cube,)), ME)

    def erase(self) -> None:
        self.memos.forget(Forget(ids=self.some(1), mode=Mode.ERASE, confirmed=True), ME)

    def let_go(self) -> None:
        policy = CubePolicy(keep_versions=self.chance.choice((None, 1, 2)), decay_days=self.chance.choice((None, 90)))
        self.memos.set_cube(SetCube(self.cube, description=self.words(), licence="CC-BY-4.0", policy=policy), ME)
        self.memos.sweep()

    def wait(self) -> None:
        self.clock.pass_by(hours=self.chance.choice((1, 20)))
        self.memos.sweep()

    def name_the_moment(self) -> None:
        self.memos.snapshot(self.cube, self.chance.choice(("then", "später", "🜁")), ME, self.chance.choice((None, "ß")))
