"""A web server on loopback that misbehaves as told."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from fastft.datasets.fetch import FetchConfig, FetchResult, fetch

BODY = bytes(range(256)) * 400
SHA1, SHA256 = hashlib.sha1(BODY).hexdigest(), hashlib.sha256(BODY).hexdigest()


@dataclass
class Site:
    """What a server on loopback serves, how it misbehaves, and what it was asked."""

    body: bytes = BODY
    etag: str = '"one"'
    base: str = ""
    ranges: bool = True
    heeds_if_range: bool = True
    shift: int = 0  # of where a 206 begins
    says_length: bool = True
    redirect: str = ""
    statuses: list[int] = field(default_factory=list)  # of the next answers
    cuts: list[int] = field(default_factory=list)  # bytes of the next answers
    ending: str = "close"
    asked: list[str | None] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        site: Site = self.server.site  # type: ignore[attr-defined]
        if site.redirect and self.path == "/go.bin":
            self.send_response(302)
            self.send_header("Location", site.redirect)
            self.end_headers()
            return
        asked = self.headers["Range"]
        site.asked.append(asked)
        if site.statuses:
            self.send_error(site.statuses.pop(0))
            return
        status, start = 200, 0
        is_current = not site.heeds_if_range or self.headers["If-Range"] in (None, site.etag)
        if asked and site.ranges and is_current:
            status, start = 206, int(asked[6:-1]) + site.shift
        if start >= len(site.body) > 0:
            status = 416
        body = site.body[start:] if status != 416 else b""
        self.send_response(status)
        whole = len(site.body)
        if status != 200:
            span = "*" if status == 416 else f"{start}-{whole - 1}"
            self.send_header("Content-Range", f"bytes {span}/{whole}")
        if site.etag:
            self.send_header("ETag", site.etag)
        if site.says_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if site.cuts:
            body = body[: site.cuts.pop(0)]
            self.wfile.write(body)
            if site.ending == "reset":
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        else:
            self.wfile.write(body)
        site.sent.append(len(body))


@contextmanager
def serve() -> Iterator[Site]:
    """The server, in a thread."""
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        site = Site(base=f"http://127.0.0.1:{server.server_address[1]}")
        server.site = site  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


def get(site: Site, out: Path, name: str = "x.bin", **options: Any) -> FetchResult:
    options = {"backoff_s": 0, **options}
    return fetch(FetchConfig(source=f"{site.base}/{name}", out=out, **options))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
