"""Real places for shelves: folders, this process's memory, an S3 server and a web server on this machine."""

from __future__ import annotations

import base64
import functools
import http.server
import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from engine.store.place import open_place, place_of

S3_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_server() -> Iterator[str]:
    """An S3 server, known to this process by its environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**S3_ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setenv(name, value)
        try:
            yield f"http://{host}:{port}"
        finally:
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            server.stop()


def new_bucket() -> str:
    """The URL of a shelf in a bucket of its own."""
    bucket = f"b{uuid.uuid4().hex}"
    open_place(place_of(f"s3://{bucket}")).mkdir(bucket)
    return f"s3://{bucket}/shelves/one"


class _Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        wanted = self.server.password  # type: ignore[attr-defined]
        said = base64.b64encode(f"ada:{wanted}".encode()).decode()
        if wanted and self.headers.get("Authorization") != f"Basic {said}":
            self.send_error(401)
            return
        super().do_GET()

    def log_message(self, *args: object) -> None:
        """Nothing is logged."""


@contextmanager
def web_server(folder: Path, password: str = "") -> Iterator[int]:
    """A web server that serves a folder: its port."""
    handler = functools.partial(_Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.password = password  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
