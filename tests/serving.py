"""Serve one file on this machine, with the faults that a test asks for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """What it does, and what was asked of it."""

    url: str
    content: bytes
    ranges: bool = True
    cut_after: int | None = None  # bytes of an answer, then the connection is closed
    asked: list[str | None] = field(default_factory=list)


@contextmanager
def serving(content: bytes) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.asked.append(self.headers["Range"])
            start = (
                int(self.headers["Range"].split("=")[1].rstrip("-")) if state.ranges and self.headers["Range"] else 0
            )
            if self.path != "/w.pt" or start > len(state.content):
                self.send_error(404 if self.path != "/w.pt" else 416)
                return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.cut_after])

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{http.server_port}/w.pt", content)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield state
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
