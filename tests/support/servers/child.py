"""What each server process does: tell its port, and die with the process that started it."""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any


def listen() -> socket.socket:
    """Return a socket that listens on a port that was free."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    listener.set_inheritable(True)
    return listener


def announce(port: int) -> None:
    """Tell the parent the port, once connections to it are answered."""
    print(f"PORT {port}", flush=True)


def die_with_parent() -> None:
    """Exit at the end of stdin, which the parent holds open as long as it lives."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


class OneAtATime:
    """A WSGI application behind a lock, which a request takes once its body is here."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self.application = application
        self.lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if not environ.get("wsgi.input_terminated"):
            length = int(environ.get("CONTENT_LENGTH") or 0)
            environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(length))
        elif environ.get("HTTP_TRANSFER_ENCODING"):
            environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read())
        with self.lock:
            answer = self.application(environ, start_response)
            try:
                return list(answer)
            finally:
                getattr(answer, "close", lambda: None)()
