"""What the tests here need of Node: the packages of this folder, and a Node that is new enough to run them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
MODULES = FOLDER / "node_modules"
INSTALLED = MODULES / ".package-lock.json"  # npm writes it last
CONFORMANCE = MODULES / "@modelcontextprotocol" / "conformance"
MEMORY_SERVER = MODULES / "@modelcontextprotocol" / "server-memory" / "dist" / "index.js"
INSTALL_S, RUN_S = 280, 280


def installed() -> dict[str, str]:
    """The environment in which `node` is the one that the lock file names. Installs what is missing.

    Skips the test where npm is absent: there is no other way to have these programs.
    """
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip(
            "npm is not on PATH: the conformance suite, the inspector and the programs that we work with need it"
        )
    with (FOLDER / "package-lock.json").open() as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)  # tests run in several processes
        if not INSTALLED.exists() or INSTALLED.stat().st_mtime < os.fstat(locked.fileno()).st_mtime:
            command = [npm, "ci", "--prefix", str(FOLDER), "--no-audit", "--no-fund", "--loglevel=error"]
            subprocess.run(command, check=True, timeout=INSTALL_S, stdin=subprocess.DEVNULL)
    ours = sorted(str(binary.parent) for binary in MODULES.glob("node-*/bin/node"))
    return {**os.environ, "PATH": os.pathsep.join([*ours, os.environ["PATH"]]), "NO_COLOR": "1"}


def run_node(script: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a script of Node's to its end."""
    environment = {**installed(), **more}
    node = shutil.which("node", path=environment["PATH"])
    assert node is not None, "npm is there, but no node"
    return subprocess.run(
        [node, str(script), *arguments],
        env=environment,
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        stdin=subprocess.DEVNULL,
        check=False,
    )
