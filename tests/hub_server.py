"""A Hub on the loopback address, for the real libraries: folders named as the Hub names its repositories,
its API for whole snapshots and for streams, and what goes wrong with it.

``python hub_server.py FOLDER`` serves ``FOLDER/datasets/<owner>/<name>/…`` and ``FOLDER/models/…``, prints
its address, and lists in ``FOLDER/served`` which files were fetched.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import ssl
import sys
import threading
import urllib.parse
from pathlib import Path

COMMIT = "a" * 40
REFUSALS = {"gated": (401, "GatedRepo"), "gone": (404, "RepoNotFound")}


class HubServer(http.server.ThreadingHTTPServer):
    """Args:
    trouble: "gated", "gone", "slow" (nothing is answered) or "stalled" (files are not); can be set later.
    certificate: (certificate, key) for TLS.
    """

    daemon_threads = True

    def __init__(self, root: Path, trouble: str = "", certificate: tuple[Path, Path] | None = None):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.root, self.trouble, self.never = Path(root), trouble, threading.Event()
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.server_address[1]}"

    def start(self) -> str:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self.url

    def handle_error(self, *_):
        """Clients that give up are what is tested."""


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urllib.parse.unquote(self.path.partition("?")[0])
        parts, trouble = path.strip("/").split("/"), self.server.trouble
        if trouble == "slow":
            self.server.never.wait(20)
        if path == "/":
            return self.answer(b"")
        if trouble in REFUSALS:
            status, code = REFUSALS[trouble]
            return self.answer(b"", status, {"X-Error-Code": code})
        return self.api(parts[1:], sent) if parts[0] == "api" else self.file(parts)

    do_HEAD = do_POST = do_GET

    def api(self, parts: list[str], sent: bytes):
        repository, rest = self.server.root / "/".join(parts[:3]), parts[3:]
        if len(parts) < 3 or not repository.is_dir():
            return self.answer(b"", 404, {"X-Error-Code": "RepoNotFound"})
        if rest[:1] == ["paths-info"]:
            wanted = urllib.parse.parse_qs(sent.decode())["paths"]
            found = [repository / name for name in wanted if (repository / name).exists()]
        elif rest[:1] == ["tree"]:
            below = repository / "/".join(rest[2:])
            found = sorted(below.rglob("*") if "recursive=true" in self.path.lower() else below.glob("*"))
            if not found:
                return self.answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
        else:
            name = "/".join(parts[1:3])
            return self.answer(json.dumps({"id": name, "sha": COMMIT, "siblings": []}))
        return self.answer(json.dumps([self.entry(repository, each) for each in found]))

    def entry(self, repository: Path, path: Path) -> dict:
        name = path.relative_to(repository).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": COMMIT, "size": 0}
        content = path.read_bytes()
        return {"type": "file", "path": name, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}

    def file(self, parts: list[str]):
        if "resolve" not in parts:
            return self.answer(b"", 404)
        i = parts.index("resolve")
        kind = parts[0] if parts[0] == "datasets" else "models"
        repository = self.server.root / kind / "/".join(parts[i - 2 : i])
        path = repository / "/".join(parts[i + 2 :])
        if not path.is_file():
            code = "EntryNotFound" if repository.is_dir() else "RepoNotFound"
            return self.answer(b"", 404, {"X-Error-Code": code, "X-Repo-Commit": COMMIT})
        content = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if self.command == "GET":
            if self.server.trouble == "stalled" and path.suffix != ".md":
                self.server.never.wait(20)
            with open(self.server.root / "served", "a") as log:
                log.write(path.relative_to(self.server.root).as_posix() + "\n")
        if not (wanted := self.headers.get("Range")):
            return self.answer(content, 200, headers)
        start, _, end = wanted.removeprefix("bytes=").partition("-")
        part = content[int(start) : int(end) + 1 if end else None]
        headers["Content-Range"] = f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}"
        return self.answer(part, 206, headers)

    def answer(self, content: bytes | str, status: int = 200, headers: dict | None = None):
        content = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = HubServer(Path(sys.argv[1]))
    print(server.url, flush=True)
    server.serve_forever()
