"""`tier adapters`, `activate`, `compare`, `probe`, `fuse`, `export` and `text`: what the model knows by itself.

What must stay true: what an adapter said in answer to a probe is data, shown and never obeyed; no number is shown as
better than it was measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memos_mcp.commands.chatting import model_source
from memos_mcp.commands.memory import given
from memos_mcp.commands.session import DONE, FAILED, Session, Usage
from memos_mcp.commands.tiers import bytes_in_words, memories_in_words

HEADINGS = ("cube", "version", "state", "knows", "missed", "made", "size", "rank", "since", "")
STATES = {"serving": "serves", "resting": "rests", "failed": "was refused", "gone": "is gone"}
TEXTS = ("confidence", "source", "kept as", "text")


def _asking(session: Session, options: argparse.Namespace, *names: str) -> dict[str, Any]:
    model = model_source(options.model or session.settings.model)
    return {**given(options, *names), "model": model, "offline": session.settings.offline}


# --- versions -------------------------------------------------------------------------------------------------------


def show(session: Session, options: argparse.Namespace) -> int:
    rows = session.call("adapters", {"cube": options.cube})["adapters"]
    if session.screen.as_json:
        session.screen.json({"adapters": rows})
        return DONE
    shown = [row for row in rows if options.all or row["state"] != "gone"]
    if shown:
        usable = any(row["usable"] for row in shown)
        session.screen.table(HEADINGS, [_row(row, loaded=usable) for row in shown])
        if not usable:
            session.screen.remark("none is for a model that is loaded now: a chat loads the model")
    else:
        session.screen.remark(f"there is no adapter: memos-mcp tier train {options.cube or 'CUBE'} makes one")
    if gone := len(rows) - len(shown):
        session.screen.remark(f"{gone:,} earlier versions are gone, with memories or by hand: --all shows them")
    if options.memories and shown:
        session.screen.line()
        session.screen.table(("cube", "version", "memory", ""), [line for row in rows for line in _memories(row)])
    return DONE


def _row(row: dict[str, Any], *, loaded: bool) -> Sequence[object]:
    """`loaded`: the model of one of them is loaded, so that the others are of another one."""
    gone = row["state"] == "gone"
    remarks = [*row["remarks"], *(() if row["usable"] or gone or not loaded else ("of another model",))]
    size, since = "" if gone else bytes_in_words(row["bytes"]), row["created_at"][:10]
    knows, missed = f"{len(row['known'])} of {len(row['sources'])}", str(len(row["missed"]))
    if gone or row["judged"] is None:
        knows, missed = "" if gone else "not judged yet", ""
    return (
        row["cube"],
        row["version"],
        row["state"],
        knows,
        missed,
        row["made"],
        size,
        row["rank"] or "",
        since,
        "; ".join(remarks),
    )


def _memories(row: dict[str, Any]) -> list[Sequence[object]]:
    known, otherwise = {item["id"] for item in row["known"]}, "missed" if row["judged"] else "not judged"
    taught = [
        (f"{item['id']} v{item['version']}", "known" if item["id"] in known else otherwise) for item in row["sources"]
    ]
    left_out = [(item["id"], f"left out: {item['why']}") for item in row["left_out"]]
    return [(row["cube"], row["version"], memory, standing) for memory, standing in (*taught, *left_out)]


def about(row: dict[str, Any]) -> str:
    """A version of an adapter in one line."""
    of = memories_in_words(len(row["sources"]))
    known = f"it knows {len(row['known'])} of {of}" if row["judged"] else f"made from {of}, and not judged here yet"
    took = f", {row['seconds']:,.0f} s of training" if row["seconds"] else ""
    size = bytes_in_words(row["bytes"])
    return f"version {row['version']} of the adapter of {row['cube']} {STATES[row['state']]}: {known}; {size}{took}"


def refused(row: dict[str, Any]) -> bool:
    """Whether the gate let a version not pass."""
    return bool(row["state"] == "failed")


def judged_in_words(row: dict[str, Any]) -> list[str]:
    """What the gate found of a version."""
    found = row["judged"]
    if found is None:
        return ["nobody judged it here yet: memos-mcp tier activate does before it serves", *row["remarks"]]
    lines = [
        f"right without the memories: {found['right']:.0%} of the probes (before: {found['right_before']:.0%})",
        f"right answers from other contexts: {found['scenes']:.0%} (before: {found['scenes_before']:.0%})",
        f"right answers from contexts that contradict it: {found['conflicts']:.0%}",
        f"unknown stays unknown: {found['unknown']:.0%}",
        f"unrelated answers kept: {found['kept']:.0%}, KL {found['kl']:.4f} nats",
    ]
    if row["missed"]:
        lines.append(f"missed: {', '.join(row['missed'])}")
    return [*lines, *row["remarks"], *(f"refused: {why}" for why in found["why"])]


def activate(session: Session, options: argparse.Namespace) -> int:
    with session.screen.bar("activate") as bar:
        done = session.call("activate_adapter", _asking(session, options, "cube", "version", "reason"), bar)
    if session.screen.as_json:
        session.screen.json(done)
    elif done["serving"] is None:
        session.screen.line(f"no adapter serves {done['cube']} now; its versions are kept")
    else:
        session.screen.line(about(done["serving"]))
    return DONE


def export(session: Session, options: argparse.Namespace) -> int:
    path = str(Path(options.path).expanduser().absolute())
    done = session.call("export_adapter", {**given(options, "cube", "version"), "path": path})
    if session.screen.as_json:
        session.screen.json(done)
    else:
        session.screen.line(f"{done['path']} holds the adapter: PeftModel.from_pretrained loads it")
    return DONE


def fuse(session: Session, options: argparse.Namespace) -> int:
    if len(options.parts) < 2:
        raise Usage("tier fuse takes two or more adapters, as in tier fuse work home --into both")
    request = _asking(session, options, "into", "activate", "reason")
    request["parts"] = [{"cube": cube, "version": version} for cube, version in options.parts]
    with session.screen.bar("fuse") as bar:
        done = session.call("fuse_adapters", request, bar)
    if session.screen.as_json:
        session.screen.json(done)
        return FAILED if refused(done["adapter"]) else DONE
    session.screen.line(f"{about(done['adapter'])}; made by {done['how']}")
    for row in done["tried"]:
        session.screen.remark(
            f"tried {row['how']}: {row['learned']:.0%} learned, {'passed' if row['passed'] else 'refused'}"
        )
    if not refused(done["adapter"]):
        return DONE
    for line in judged_in_words(done["adapter"]):
        session.screen.remark(line)
    return FAILED


# --- what they know -------------------------------------------------------------------------------------------------


def probe(session: Session, options: argparse.Namespace) -> int:
    with session.screen.bar("probe") as bar:
        rows = session.call("probe_adapter", _asking(session, options, "cube", "version", "ids"), bar)["probes"]
    named = "the adapter" if options.version is None else f"version {options.version}"
    return _tell_of_probes(session, options.cube, rows, rows, ("the model", named))


def compare(session: Session, options: argparse.Namespace) -> int:
    with session.screen.bar("compare") as bar:
        rows = session.call("compare_adapters", _asking(session, options, "cube", "a", "b"), bar)["probes"]
    differing = rows if options.all else [row for row in rows if row["before"] != row["after"]]
    named = [f"version {number}" if number else "the model" for number in (options.a, options.b)]
    return _tell_of_probes(session, options.cube, rows, differing, named)


def _tell_of_probes(
    session: Session,
    cube: str,
    rows: Sequence[dict[str, Any]],
    shown: Sequence[dict[str, Any]],
    named: Sequence[str],
) -> int:
    """`named`: who answered."""
    screen = session.screen
    if screen.as_json:
        screen.json({"cube": cube, "probes": list(rows)})
        return DONE
    if shown:
        screen.table(("memory", "question", *named, "right"), [_probe(row, named) for row in shown])
    elif rows:
        screen.remark("both answer all of it alike: --all shows what")
    right = [sum(row[name] for row in rows) for name in ("right_before", "right_after")]
    screen.remark(f"right answers to {len(rows):,} questions: {named[0]} {right[0]:,}, {named[1]} {right[1]:,}")
    return DONE


def _probe(row: dict[str, Any], named: Sequence[str]) -> Sequence[object]:
    right = [name for name, good in zip(named, (row["right_before"], row["right_after"]), strict=True) if good]
    told = {0: "neither", 1: right[0] if right else "", 2: "both"}[len(right)]
    return row["memory"], row["question"], row["before"], row["after"], told


def text(session: Session, options: argparse.Namespace) -> int:
    with session.screen.bar("text") as bar:
        done = session.call("recover_texts", _asking(session, options, "cube", "version", "keep", "into"), bar)
    if session.screen.as_json:
        session.screen.json(done)
        return DONE
    rows = done["texts"]
    if not rows:
        session.screen.remark("it asserts nothing that the model without it does not assert too")
        return DONE
    session.screen.table(TEXTS, [_text(row) for row in rows])
    if options.keep is None:
        session.screen.remark("nothing was remembered: --keep does that")
    return DONE


def _text(row: dict[str, Any]) -> Sequence[object]:
    source = row["source"] or ""
    if source and row["agrees"] is False:
        source = f"{source} (says otherwise)"
    return f"{row['confidence']:.2f}", source, row["id"] or "", row["text"]
