"""Where the daemon of a data folder is, and who may be it.

Two files hold the answer. `owner.lock` is locked by the one process that owns the store and is never unlinked: the
lock, not the file, is the election, and it goes with the process however that ends. `endpoint.json` says where the
owner listens; it is a hint that may be stale, and is believed only once the owner has answered. Knows no engine, no
protocol beyond its number: the bridge imports this, so the standard library is all it may use.

What stays true: the lock is held from before the store is opened until after it is closed; what is published is
already listening; the token is readable by the owner of the folder alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from engine.errors import Unavailable

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

PROTOCOL = (1, 1)  # the versions of the socket's own hello that this code speaks, lowest and highest
MAX_SOCKET_PATH_BYTES = 100  # sun_path holds 104 bytes on macOS, 108 on Linux
BACKLOG = 128
LOCK_OFFSET = 1 << 30  # Windows locks are mandatory: far behind the text, so that it can be read
LOOPBACK = "127.0.0.1"
NEW = ".new"  # what is not yet complete; only the owner makes one, so a fixed name will do


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`address` is ("unix", path) or ("tcp", host, port); `foreground`: a person runs it with `serve`."""

    address: tuple[str | int, ...]
    token: str = field(repr=False)
    pid: int
    epoch: int
    version: str
    protocol: tuple[int, int] = PROTOCOL
    foreground: bool = False


def prepare_folder(data: Path) -> None:
    """Make the data folder, private to its owner.

    Raises:
        Unavailable: it cannot be made or is not a folder.
    """
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(data.iterdir()) and not (data / "store.json").exists():
            return  # somebody's folder with other things in it: its mode is theirs, and our files have their own
        if sys.platform != "win32" and stat.S_IMODE(data.stat().st_mode) & 0o077:
            data.chmod(0o700)
    except OSError as error:
        raise Unavailable(
            f"the data folder {data} cannot be used ({error.strerror}): choose another with --data or MEMOS_DATA"
        ) from error


def log_path(data: Path) -> Path:
    return data / "daemon.log"


# --- the locks --------------------------------------------------------------------------------------------------


class Lock:
    """A held lock on a file. The file stays; only the lock is released."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path

    def counts(self) -> bool:
        """Whether others still find the file that is locked: not so when somebody removed the folder."""
        try:
            return os.path.samestat(os.fstat(self._fd), self._path.stat())
        except OSError:
            return False

    def read(self) -> dict[str, int]:
        os.lseek(self._fd, 0, os.SEEK_SET)
        return _numbers(os.read(self._fd, 4096))

    def write(self, values: dict[str, int]) -> None:
        text = json.dumps(values).encode()
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        os.write(self._fd, text)

    def release(self) -> None:
        os.close(self._fd)


def take_lock(path: Path) -> Lock | None:
    """The lock on `path`, or None when another process has it."""
    fd = _open_lock_file(path)
    if _lock(fd, shared=False):
        return Lock(fd, path)
    os.close(fd)
    return None


def take_ownership(data: Path) -> tuple[Lock, int] | None:
    """The owner's lock and the new epoch, or None when another process owns the folder.

    The epoch counts owners: each that wins is one more than the last.
    """
    lock = take_lock(data / "owner.lock")
    if lock is None:
        return None
    epoch = lock.read().get("epoch", 0) + 1
    lock.write({"pid": os.getpid(), "epoch": epoch})
    return lock, epoch


def owned(data: Path) -> bool:
    """Whether some process owns the folder. Asking takes a shared lock for a moment, so many may ask at once."""
    try:
        fd = _open_lock_file(data / "owner.lock")
    except FileNotFoundError:  # not even the folder is there
        return False
    try:
        return not _lock(fd, shared=True)
    finally:
        os.close(fd)


def owner_pid(data: Path) -> int | None:
    """The process that wrote itself into the lock file last: the owner, while there is one."""
    try:
        text = (data / "owner.lock").read_bytes()
    except OSError:
        return None
    return _numbers(text).get("pid")


def _open_lock_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)


def _lock(fd: int, *, shared: bool) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(fd, LOCK_OFFSET, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _numbers(text: bytes) -> dict[str, int]:
    try:
        values = json.loads(text or b"{}")
    except ValueError:  # a power cut may tear it: the epoch then starts again, which harms nothing
        return {}
    return {k: v for k, v in values.items() if isinstance(v, int)} if isinstance(values, dict) else {}


# --- the endpoint file ------------------------------------------------------------------------------------------


def publish(data: Path, endpoint: Endpoint) -> None:
    """Say where the owner listens: all of it at once, readable by the folder's owner alone."""
    path = data / "endpoint.json"
    new = path.with_name(path.name + NEW)
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(json.dumps(asdict(endpoint)).encode())
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def retract(data: Path) -> None:
    """Take the endpoint back. Only the owner may."""
    (data / "endpoint.json").unlink(missing_ok=True)


def read_endpoint(data: Path) -> Endpoint | None:
    """What is published, or None. Whether somebody listens there is another question."""
    try:
        values = json.loads((data / "endpoint.json").read_bytes())
        low, high = values["protocol"]
        return Endpoint(
            address=tuple(values["address"]),
            token=str(values["token"]),
            pid=int(values["pid"]),
            epoch=int(values["epoch"]),
            version=str(values["version"]),
            protocol=(int(low), int(high)),
            foreground=bool(values.get("foreground", False)),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


# --- sockets ----------------------------------------------------------------------------------------------------


def listen(data: Path, *, tcp: bool) -> tuple[socket.socket, tuple[str | int, ...]]:
    """A listening socket and its address. Only the owner may: it takes the place of what a dead owner left.

    Raises:
        Unavailable: the place for the socket is not private.
    """
    if tcp or not hasattr(socket, "AF_UNIX"):
        server = socket.create_server((LOOPBACK, 0), backlog=BACKLOG)
        return server, ("tcp", LOOPBACK, server.getsockname()[1])
    path = socket_path(data)
    new = path.with_name(path.name + NEW)
    new.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(new))
    new.chmod(0o600)
    server.listen(BACKLOG)  # before it gets its name: whoever finds the name finds a listener
    new.replace(path)
    return server, ("unix", str(path))


def remove_socket(address: tuple[str | int, ...]) -> None:
    if address[0] == "unix":
        with contextlib.suppress(OSError):
            os.unlink(str(address[1]))


def call(address: tuple[str | int, ...], timeout_s: float) -> socket.socket:
    """A connection to `address`.

    Raises:
        OSError: nobody listens there.
    """
    if address[0] == "unix":
        client = socket.socket(socket.AF_UNIX)
        target: str | tuple[str, int] = str(address[1])
    else:
        client = socket.socket(socket.AF_INET)
        target = (LOOPBACK, int(address[2]))  # never another host, whatever the file says
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        client.settimeout(timeout_s)
        client.connect(target)
    except BaseException:
        client.close()
        raise
    return client


def socket_path(data: Path) -> Path:
    """Where the Unix socket goes: in the data folder, or in a private runtime folder where that path is too long.

    Raises:
        Unavailable: somebody else's folder stands where the private one should be.
    """
    path = data / "daemon.sock"
    if len(os.fsencode(path)) + len(NEW) <= MAX_SOCKET_PATH_BYTES:
        return path
    import hashlib  # only here: most paths are short, and the bridge counts milliseconds
    import tempfile

    digest = hashlib.blake2b(os.fsencode(data), digest_size=8).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"memos-{_uid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != _uid() or stat.S_IMODE(facts.st_mode) & 0o077:
        raise Unavailable(f"{folder} is not private to you: remove it, or set TMPDIR to a folder of your own")
    return folder / "s"


def _uid() -> int:
    return 0 if sys.platform == "win32" else os.getuid()
