"""A Hugging Face Hub on loopback with one data set, `owner/name`, as far as reading it asks."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_COMMIT = {"id": "c" * 40, "title": "x", "date": "2024-01-01T00:00:00.000Z"}


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass

    @property
    def files(self) -> dict[str, bytes]:
        return self.server.files  # type: ignore[attr-defined, no-any-return]

    def do_POST(self) -> None:
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["paths"]
        self._send_json([each for each in self._entries() if each["path"] in asked])

    def do_GET(self) -> None:
        parts = urlsplit(unquote(self.path))
        if "/resolve/" in parts.path:
            self._send_file(parts.path.partition("/resolve/main/")[2])
        elif "/tree/" in parts.path:
            folder = parts.path.partition("/tree/main")[2].strip("/")
            below = [e for e in self._entries() if not folder or e["path"].startswith(f"{folder}/")]
            if parse_qs(parts.query)["recursive"] != ["true"]:
                holder = PurePosixPath(folder)
                below = [each for each in below if PurePosixPath(each["path"]).parent == holder]
            self._send_json(below)
        elif parts.path.startswith("/api/datasets/owner/name"):
            about = {"id": "owner/name", "sha": "c" * 40, "tags": [], "siblings": []}
            self._send_json(about | {"private": False, "downloads": 0, "likes": 0})
        else:
            self.send_error(404)

    def _entries(self) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for path, content in self.files.items():
            for folder in PurePosixPath(path).parents:
                entry = {"type": "directory", "oid": "b" * 40, "size": 0, "path": str(folder)}
                found.setdefault(str(folder), entry)
            sha256 = hashlib.sha256(content).hexdigest()
            large = {"oid": sha256, "size": len(content), "pointerSize": 130}
            file = {"type": "file", "oid": sha256[:40], "size": len(content), "path": path}
            found[path] = file | {"lfs": large, "lastCommit": _COMMIT}
        found.pop(".", None)
        return list(found.values())

    def _send_json(self, value: object) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _send_file(self, path: str) -> None:
        content = self.files[path]
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        part = content[int(first) : int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


@contextmanager
def serve_hub(files: dict[str, bytes]) -> Iterator[str]:
    """The hub in a thread; its address. Files may be changed meanwhile."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.files = files  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
