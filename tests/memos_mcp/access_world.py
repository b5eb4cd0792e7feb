"""A store in which everything that can be told has a word of its own, and who may be told what: a table.

Each content, tag, source, speaker, cube and snapshot holds a word that stands nowhere else. Whatever an answer says,
its words tell which memories it says something of. Who may see which is written down here once more, by hand: the tests
compare the server with this table and not with the program's own rule.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cubes import Action, CubePolicy, Grant, Scope, Sensitivity
from engine.cube_operations import Govern, SetCube
from engine.memos import MemOS
from engine.operations import Caller, Forget, Fuse, Remember, Turn

ME = Caller()
LEVELS = ("normal", "personal", "secret")
COMMON = "lantern"  # a word that every memory holds
TOKEN = re.compile(r"[A-Za-z0-9_]+")


def word(*about: str) -> str:
    """A word that stands for one thing."""
    digest = hashlib.blake2b(repr(about).encode(), digest_size=8).hexdigest()
    return "zz" + digest.translate(str.maketrans("0123456789", "ghijklmnop"))


# --- who may do what: the table --------------------------------------------------------------------------------------

PRIVATE, SHARED, OPEN, PUBLIC, MOUNTED = (
    word("cube", name) for name in ("private", "shared", "open", "public", "mount")
)
CUBES = (PRIVATE, SHARED, OPEN, PUBLIC, MOUNTED)
NOWHERE = word("cube", "that is not there")

POLICIES = {
    PRIVATE: CubePolicy(grants=(Grant("clerk", (Action.READ,)), Grant("deputy", (Action.ADMIN,)))),
    SHARED: CubePolicy(read=Scope.SHARED),
    OPEN: CubePolicy(read=Scope.SHARED, write=Scope.SHARED),
    PUBLIC: CubePolicy(read=Scope.PUBLIC),
}
OPEN_TO_ALL = frozenset((SHARED, OPEN, PUBLIC))

# name -> (the scopes of its token, what it may do by grants of its own: cube -> the most)
PRINCIPALS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "everywhere": (("read",), dict.fromkeys(CUBES, "read")),
    "writer": ((f"write:{PRIVATE}", f"write:{MOUNTED}"), {PRIVATE: "write", MOUNTED: "read"}),
    "sharer": ((f"share:{SHARED}",), {SHARED: "share"}),
    "admin": ((f"admin:{PUBLIC}",), {PUBLIC: "admin"}),
    "clerk": (("read:elsewhere",), {PRIVATE: "read"}),
    "deputy": (("read:elsewhere",), {PRIVATE: "admin"}),
    "visitor": (("read:elsewhere",), {}),
}


def levels(principal: str, cube: str) -> tuple[str, ...]:
    """How sensitive the memories of a cube may be that the principal sees."""
    own = PRINCIPALS[principal][1].get(cube)
    if own == "admin":
        return LEVELS
    if own is not None:
        return LEVELS[:2]
    return LEVELS[:1] if cube in OPEN_TO_ALL else ()


def may_write(principal: str, cube: str) -> bool:
    own = PRINCIPALS[principal][1].get(cube)
    return cube != MOUNTED and (own in ("write", "admin") or cube == OPEN)


# --- what there is ----------------------------------------------------------------------------------------------------


@dataclass
class World:
    """Everything in the store: which words and ids stand for what."""

    told: dict[str, set[tuple[str, str]]] = field(default_factory=dict)  # word -> (cube, level) of what says it
    ids: dict[str, tuple[str, str]] = field(default_factory=dict)  # memory -> (cube, level)
    snapshots: dict[str, str] = field(default_factory=dict)  # cube -> the name of its snapshot

    def seen_by(self, principal: str) -> set[str]:
        """The words and ids that the principal may be told."""
        return {
            said
            for said, places in self.told.items()
            if any(level in levels(principal, cube) for cube, level in places)
        }

    def hidden_from(self, principal: str) -> set[str]:
        return set(self.told) - self.seen_by(principal)

    def count(self, principal: str, cube: str) -> int:
        return sum(place == cube and level in levels(principal, cube) for place, level in self.ids.values())

    def note(self, said: str, cube: str, level: str) -> None:
        self.told.setdefault(said.lower(), set()).add((cube, level))


def words_of(text: str) -> set[str]:
    return {found.lower() for found in TOKEN.findall(text)}


def build(memos: MemOS, folder: Path) -> World:
    """Fill a store with memories of every cube, level and relation, and note what stands for what."""
    for cube, policy in POLICIES.items():
        description = f"About {word(cube, 'description')}."
        memos.set_cube(SetCube(cube, description=description, policy=policy), ME)
        _fill(memos, cube)
        memos.snapshot(cube, word(cube, "snapshot"), ME, reason=f"{word(cube, 'why')} happened")
    notes = folder / word("folder")
    notes.mkdir()
    (notes / "one.md").write_text(f"The {COMMON} of the notes is {word(MOUNTED, 'note')}.\n")
    memos.mount(notes, ME, name=MOUNTED)
    memos.sweep()
    return _noted(memos)


def _fill(memos: MemOS, cube: str) -> None:
    def say(content: str, level: str = "normal", **more: Any) -> str:
        request = Remember(content, cube=cube, sensitivity=Sensitivity(level), **more)
        return memos.remember(request, ME).stored[0].id

    def mark(level: str, *ids: str) -> None:
        memos.govern(Govern(ids, sensitivity=Sensitivity(level)), ME)

    for level in LEVELS:
        mine = word(cube, level, "plain")
        tags, source = (word(cube, level, "tag"),), f"https://example.org/{word(cube, level, 'source')}"
        say(f"The {COMMON} of {mine} burns.", level, tags=tags, source=source)
    one = say(f"The {COMMON} quota of {word(cube, 'rivals')} is 41 litres.")
    say(f"The {COMMON} quota of {word(cube, 'rivals')} is 57 litres.", "secret")
    parents = [say(f"The {COMMON} of {word(cube, 'parent', side)} hangs {side}.") for side in ("left", "right")]
    fused = memos.fuse(Fuse(ids=tuple(parents), content=f"Both {COMMON}s: {word(cube, 'fused')}."), ME).id
    assert fused is not None
    mark("secret", fused)
    mark("normal", *parents)
    old = say(f"The {COMMON} once was {word(cube, 'old')}.", "secret")
    say(f"The {COMMON} is now {word(cube, 'new')}.", supersedes=(old,))
    away = say(f"The {COMMON} of {word(cube, 'away')} is put away.", "secret")
    memos.forget(Forget(ids=(away,), reason=f"{word(cube, 'away', 'reason')} said so"), ME)
    lines = " ".join(f"The {COMMON} number {n} of {word(cube, 'text')} shines on street {n}." for n in range(120))
    say(lines, "secret")
    speakers = (word(cube, "first").title(), word(cube, "second").title(), "Ada")
    turns = tuple(Turn("user", f"Turn {n} tells of the {COMMON}.", name) for n, name in enumerate(speakers))
    stored = memos.remember(Remember(messages=turns, cube=cube, source=f"chat:{word(cube, 'chat')}"), ME).stored
    mark("secret", stored[1].id)
    _with_a_past(memos, cube, one)


def _with_a_past(memos: MemOS, cube: str, like: str) -> None:
    """A memory that says one thing now, and was a secret that said another."""
    record = next(record for record in memos.export_memories(ME) if record["id"] == like)
    now = {**record, "id": f"m_{word(cube, 'past')}", "version": 2, "lineage": [], "history": []}
    now["content"] = f"The {COMMON} of {word(cube, 'present')} is open."
    then = {**now, "version": 1, "sensitivity": "secret", "content": f"The {COMMON} was {word(cube, 'was')}."}
    report = memos.import_memories([{**now, "history": [then]}], ME)
    assert report.added == 1, report


def _noted(memos: MemOS) -> World:
    world = World()
    for record in memos.export_memories(ME):
        place = (record["cube"], record["sensitivity"])
        world.ids[record["id"]] = place
        world.note(record["id"], *place)
        for version in (record, *record["history"]):
            level = max(version["sensitivity"], record["sensitivity"], key=LEVELS.index)
            said = {name: version[name] for name in ("content", "tags", "source", "actor", "session", "reason")}
            for found in words_of(json.dumps(said)):
                if found.startswith("zz"):
                    world.note(found, record["cube"], level)
    for cube in CUBES:
        for told in (cube, *words_of(memos.cube(cube, ME).cube.description)):
            if told.startswith("zz"):
                world.note(told, cube, "normal")
        for snapshot in memos.snapshots(cube, ME):
            world.snapshots[cube] = snapshot.name
            for told in words_of(f"{snapshot.name} {snapshot.reason}"):
                if told.startswith("zz"):
                    world.note(told, cube, "normal")
    return world
