"""The control mode of the daemon's socket: what the command line asks for, and how it is answered.

A request is a line `{"id", "method", "params"}`; its answer is `{"id", "result"}` or `{"id", "error": {"code",
"message"}}`, after any number of `{"id", "progress": [done, total, message]}` and `{"id", "item"}` lines. The methods
stand in one table and are synchronous: they run in worker threads, and when the connection closes, the next progress
or item of what still runs ends it with `Cancelled`.

What stays true: every request with an id gets exactly one result or error; an unexpected failure goes to the log, and
the caller learns only that it happened.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.abc import TaskGroup

from engine.errors import Cancelled, Invalid, MemosError, NotAllowed, Unavailable
from engine.operations import OWNER, Caller
from memos_mcp.envelope import compact
from memos_mcp.lines import Lines, LineTooLong
from memos_mcp.version import VERSION

if TYPE_CHECKING:
    from engine.memos import MemOS

logger = logging.getLogger(__name__)

PROGRESS_EVERY_S = 0.05
ITEMS_AT_ONCE = 64


class Host(Protocol):
    """The daemon, as far as its clients may ask about it."""

    foreground: bool

    def facts(self) -> dict[str, Any]: ...

    def end(self, why: str) -> None: ...

    async def engine(self) -> MemOS: ...


class Call:
    """One request while it runs in its worker thread."""

    def __init__(self, lines: Lines, identifier: object, params: Mapping[str, Any], caller: Caller) -> None:
        self.params = params
        self.caller = caller
        self.stopped = threading.Event()
        self._lines = lines
        self._identifier = identifier
        self._items: list[bytes] = []
        self._told_at = float("-inf")

    def text(self, name: str) -> str:
        value = self.params.get(name)
        if not isinstance(value, str):
            raise Invalid(f"'{name}' must be a string")
        return value

    def progress(self, done: float, total: float | None, message: str) -> None:
        self._check()
        now = time.monotonic()
        if now - self._told_at >= PROGRESS_EVERY_S or done == total:
            self._told_at = now
            self._write(self._line("progress", [done, total, message]))

    def item(self, value: object) -> None:
        self._check()
        self._items.append(self._line("item", value))
        if len(self._items) >= ITEMS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        if self._items:
            self._write(b"\n".join(self._items))
            self._items.clear()

    def _line(self, kind: str, value: object) -> bytes:
        return compact({"id": self._identifier, kind: value})

    def _write(self, data: bytes) -> None:
        if not anyio.from_thread.run(self._lines.write, data):
            self.stopped.set()

    def _check(self) -> None:
        if self.stopped.is_set():
            raise Cancelled("the caller has gone; what was not finished was not done")


# --- the methods --------------------------------------------------------------------------------------------------


def tool(memos: MemOS, call: Call) -> object:
    from memos_mcp.tools import TOOLS

    name, arguments = call.text("name"), call.params.get("arguments") or {}
    if name not in TOOLS:
        raise Invalid(f"there is no tool {name!r}: there are {', '.join(TOOLS)}")
    if not isinstance(arguments, Mapping):
        raise Invalid("'arguments' must be an object")
    return TOOLS[name].run(memos, arguments, call.caller, call.progress)


def history(memos: MemOS, call: Call) -> object:
    from memos_mcp import render

    return {"versions": [render.version(row) for row in memos.history(call.text("id"), call.caller)]}


def restore(memos: MemOS, call: Call) -> object:
    from memos_mcp import render

    version, reason = call.params.get("version"), call.params.get("reason")
    if not isinstance(version, int) or isinstance(version, bool):
        raise Invalid("'version' must be a whole number: see `memos-mcp history ID`")
    return render.whole(memos.restore(call.text("id"), version, call.caller, reason=reason))


def cubes(memos: MemOS, call: Call) -> object:
    from memos_mcp import render_cubes

    return {"cubes": [render_cubes.cube_view(view) for view in memos.cubes(call.caller)]}


def status(memos: MemOS, call: Call) -> object:
    from memos_mcp import render, render_scheduler

    standing = render_scheduler.standing(memos.scheduler(call.caller))
    return {**render.status(memos.status(call.caller)), "scheduler": render_scheduler.brief(standing)}


def verify(memos: MemOS, call: Call) -> object:
    return {"problems": list(memos.verify(call.caller))}


def backup(memos: MemOS, call: Call) -> object:
    return {"path": str(memos.backup(Path(call.text("path")), call.caller, call.progress))}


def export(memos: MemOS, call: Call) -> object:
    names = call.params.get("cubes")
    count = 0
    for record in memos.export_memories(call.caller, tuple(names) if names else None):
        call.item(record)
        count += 1
    call.flush()
    return {"memories": count}


def take_in(memos: MemOS, call: Call) -> object:
    from dataclasses import asdict

    records = call.params.get("records")
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise Invalid("'records' must be an array of objects")
    rehearsal, facts = (call.params.get(name) is True for name in ("dry_run", "facts"))
    return asdict(memos.import_memories(records, call.caller, call.progress, dry_run=rehearsal, facts=facts))


def draw_facts(memos: MemOS, call: Call) -> object:
    from memos_mcp import render_tiers

    work = memos.draw_facts(str(call.params.get("cube", "")), call.caller)
    return {"work": None if work is None else render_tiers.work(work)}


OF_CUBES = (
    *("cube", "diff", "delete_cube", "pack", "install", "publish", "shelf"),
    *("mount", "unmount", "mounts", "audit", "verify_audit", "receipts", "receipt"),
)
OF_TIERS = (
    *("move", "train", "adapters", "activate_adapter", "drop_adapter", "export_adapter", "compare_adapters"),
    *("probe_adapter", "fuse_adapters", "recover_texts", "work", "cancel_work"),
)
OF_THE_SCHEDULER = ("scheduler", "run_scheduler", "scheduler_log", "undo_move")
OF_THE_MODEL = ("chat", "model", "tiers", "build_tier", "drop_tier", "newest")


def _about_cubes(name: str) -> Callable[[MemOS, Call], object]:
    """A method of `control_cubes`, which is loaded when one is asked for: the daemon's start does not wait for it."""

    def run(memos: MemOS, call: Call) -> object:
        from memos_mcp import control_cubes

        return control_cubes.METHODS[name](memos, call)

    return run


def _about_the_model(name: str) -> Callable[[MemOS, Call], object]:
    """A method of `control_model`, loaded as those of `control_cubes` are."""

    def run(memos: MemOS, call: Call) -> object:
        from memos_mcp import control_model

        return control_model.METHODS[name](memos, call)

    return run


def _about_tiers(name: str) -> Callable[[MemOS, Call], object]:
    """A method of `control_tiers`, loaded as those of `control_cubes` are."""

    def run(memos: MemOS, call: Call) -> object:
        from memos_mcp import control_tiers

        return control_tiers.METHODS[name](memos, call)

    return run


def _about_the_scheduler(name: str) -> Callable[[MemOS, Call], object]:
    """A method of `control_scheduler`, loaded as those of `control_cubes` are."""

    def run(memos: MemOS, call: Call) -> object:
        from memos_mcp import control_scheduler

        return control_scheduler.METHODS[name](memos, call)

    return run


METHODS: dict[str, Callable[[MemOS, Call], object]] = {
    "tool": tool,
    "history": history,
    "restore": restore,
    "cubes": cubes,
    "status": status,
    "verify": verify,
    "backup": backup,
    "export": export,
    "import": take_in,
    "draw_facts": draw_facts,
    **{name: _about_cubes(name) for name in OF_CUBES},
    **{name: _about_the_model(name) for name in OF_THE_MODEL},
    **{name: _about_tiers(name) for name in OF_TIERS},
    **{name: _about_the_scheduler(name) for name in OF_THE_SCHEDULER},
}


def _stop(host: Host, params: Mapping[str, Any]) -> object:
    host.end("stop")
    return host.facts()


def _hand_over(host: Host, params: Mapping[str, Any]) -> object:
    if host.foreground:
        facts = host.facts()
        raise NotAllowed(
            f"process {facts['pid']} runs `memos-mcp serve` for this data folder and is not replaced: end it first"
        )
    host.end("handover")
    return host.facts()


OF_THE_DAEMON: dict[str, Callable[[Host, Mapping[str, Any]], object]] = {
    "ping": lambda host, params: host.facts(),
    "stop": _stop,
    "handover": _hand_over,
}
"""What the daemon itself answers: at once, on its event loop, whether or not the store is open."""


# --- the loop -----------------------------------------------------------------------------------------------------


class ControlSocket:
    """The daemon's end of one command line."""

    def __init__(self, lines: Lines, session: str, client: str, host: Host) -> None:
        self.lines = lines
        self.session = session
        self.client = client
        self.host = host
        self._calls: set[Call] = set()
        self._settled = anyio.Event()
        self._settled.set()

    async def serve(self) -> None:
        """Until the client goes; what it asked for then ends too."""
        async with anyio.create_task_group() as tasks:
            try:
                while (line := await self.lines.read()) is not None:
                    await self._take(line, tasks)
            except LineTooLong:
                await self._fail(None, Invalid("the request is too long: send it in parts"))
            for call in self._calls:
                call.stopped.set()

    async def drain(self) -> None:
        """Wait until what was asked is answered."""
        await self._settled.wait()

    async def _take(self, line: bytes, tasks: TaskGroup) -> None:
        try:
            request = json.loads(line)
            identifier, method, params = request["id"], request["method"], request.get("params") or {}
            if not isinstance(identifier, (str, int)) or not isinstance(params, dict):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            await self._fail(None, Invalid("a request is a line with an id, a method and params"))
            return
        if method in OF_THE_DAEMON:
            await self._answer_at_once(identifier, OF_THE_DAEMON[method], params)
        elif method in METHODS:
            operation = f"{self.session}:{json.dumps(identifier)}"
            call = Call(self.lines, identifier, params, Caller(OWNER, self.client, operation))
            self._calls.add(call)
            if self._settled.is_set():
                self._settled = anyio.Event()
            tasks.start_soon(self._run, identifier, METHODS[method], call)
        else:
            text = f"version {VERSION} does not know the method {method!r}: end the daemon with `memos-mcp stop`"
            await self._fail(identifier, Unavailable(text))

    async def _answer_at_once(
        self, identifier: object, method: Callable[[Host, Mapping[str, Any]], object], params: Mapping[str, Any]
    ) -> None:
        try:
            result = method(self.host, params)
        except MemosError as error:
            await self._fail(identifier, error)
        else:
            await self.lines.write(compact({"id": identifier, "result": result}))

    async def _run(self, identifier: object, method: Callable[[MemOS, Call], object], call: Call) -> None:
        try:
            memos = await self.host.engine()
            result = await anyio.to_thread.run_sync(method, memos, call)
            if method is status:
                result = {**_object(result), **self.host.facts()}
            await self.lines.write(compact({"id": identifier, "result": result}))
        except MemosError as error:
            await self._fail(identifier, error)
        except Exception:  # the outermost edge: the daemon and its other clients live on
            logger.exception("a control request failed")
            await self._fail(identifier, Unavailable("an unexpected failure: the daemon's log has the details"))
        finally:
            self._calls.discard(call)
            if not self._calls:
                self._settled.set()

    async def _fail(self, identifier: object, error: MemosError) -> None:
        await self.lines.write(compact({"id": identifier, "error": {"code": error.code, "message": str(error)}}))


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
