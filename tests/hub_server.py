"""A Hugging Face Hub on the loopback address, for the real libraries: models and data sets from folders,
public and gated, and what can go wrong with it.

It speaks the part of the Hub's protocol that ``huggingface_hub`` (1.27 to 2.4), ``transformers`` and
``datasets`` use for reading: repository information, trees, path lookups, access checks, and files by
revision with their ETag and commit, large ones by a redirect to another address, in ranges if asked.
What it does not know is a 404 and is kept in ``unknown``, so that a new request does not pass unseen.

    with HubServer(folder, gated={"meta-llama/Llama-2-7b-hf"}) as hub:
        os.environ["HF_ENDPOINT"] = hub.url

``folder`` holds ``models/OWNER/NAME/…`` and ``datasets/OWNER/NAME/…``. A gated repository answers as the
Hub does: 401 without a token, 403 with one that was not granted access. ``python hub_server.py FOLDER``
serves a folder, prints the address, and lists in ``FOLDER/served`` which files were fetched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

GRANTED = "hf_rehearsalGranted"  # the token that opens gated repositories; any other is somebody else's
LARGE = {".safetensors", ".bin", ".parquet", ".gz"}  # what the Hub keeps apart (LFS) and redirects to
REFUSALS = {"gated": (401, "GatedRepo"), "gone": (404, "RepoNotFound")}
ROUTES = (  # (pattern, method of Handler), the first that fits; {kind}s and {repo} name a repository
    (r"/api/(?P<kind>model|dataset)s/(?P<repo>[^/]+/[^/]+)/auth-check", "access"),
    (r"/api/(?P<kind>model|dataset)s/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?", "information"),
    (r"/api/(?P<kind>model|dataset)s/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(/(?P<path>.*))?", "tree"),
    (r"/api/(?P<kind>model|dataset)s/(?P<repo>[^/]+/[^/]+)/paths-info/(?P<revision>[^/]+)", "paths"),
    (r"/(?P<kind>dataset)s/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "file"),
    (r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "file"),
    (r"/storage/(?P<digest>[0-9a-f]{64})", "storage"),
    (r"/api/whoami-v2", "whoami"),
    # Who drives the client, and (transformers, to have old weights converted) a repository's history.
    (r"/api/agent-harnesses|/api/models/[^/]+/[^/]+/commits/main", "absent"),
    (r"/|/api/telemetry/.*", "front"),
)


def environment(**more: str) -> dict[str, str]:
    """This process's, without what a developer has set for the Hub and for proxies, and with ``more``."""
    hidden = {"HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HOME", "HF_HUB_CACHE"}
    hidden |= {"SSL_CERT_FILE", "SSL_CERT_DIR"}
    path = os.pathsep.join(map(str, (Path(__file__).parents[1], Path(__file__).parent)))
    clean = {k: v for k, v in os.environ.items() if k not in hidden and "proxy" not in k.lower()}
    return {**clean, "PYTHONPATH": path, **more}


class Refused(Exception):
    """An answer that is an error: status, the Hub's code for it, and words."""


class Repo:
    """One repository: its files with their sizes and digests, and a commit made from them."""

    def __init__(self, folder: Path):
        self.files: dict[str, Path] = {
            path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
        }
        self.digests = {name: _digest(path) for name, path in self.files.items()}
        self.commit = hashlib.sha1(json.dumps(self.digests).encode()).hexdigest()

    def entry(self, name: str) -> dict:
        """A file as trees list it."""
        size, digest = self.files[name].stat().st_size, self.digests[name]
        entry = {"type": "file", "path": name, "size": size, "oid": digest[:40]}
        if is_large(name):
            entry["lfs"] = {"oid": digest, "size": size, "pointerSize": 130}
        return entry

    def entries(self, under: str, recursive: bool) -> list[dict]:
        """Files and folders below ``under``, a folder's path or "".

        Raises:
            Refused: if there is no such folder.
        """
        prefix = f"{under}/" if under else ""
        below = [name for name in self.files if name.startswith(prefix)]
        if prefix and not below:
            raise Refused(404, "EntryNotFound", f"{under} does not exist")
        parts = [name[len(prefix) :].split("/") for name in below]
        depths = [range(1, len(part) if recursive else min(2, len(part))) for part in parts]
        inside = zip(parts, depths, strict=True)
        folders = {prefix + "/".join(part[:depth]) for part, each in inside for depth in each}
        files = [self.entry(name) for name in below if recursive or "/" not in name[len(prefix) :]]
        return [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders] + files


def is_large(name: str) -> bool:
    return Path(name).suffix in LARGE


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Handler(BaseHTTPRequestHandler):
    """One request; ``server`` is the :class:`HubServer`."""

    server: HubServer

    def log_message(self, *_) -> None:
        """The requests are kept in HubServer.requests."""

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length).decode()
        hub, address = self.server, urlsplit(self.path)
        self.query = parse_qs(address.query)
        hub.requests.append((self.command, self.path))
        if hub.trouble == "slow":
            hub.never.wait(20)
        if hub.trouble in REFUSALS and address.path != "/":
            return self.refuse(*REFUSALS[hub.trouble], hub.trouble)
        path = unquote(address.path)
        fitting = ((name, found) for pattern, name in ROUTES if (found := re.fullmatch(pattern, path)))
        name, found = next(fitting, ("", None))
        if not found:
            hub.unknown.append((self.command, self.path))
            return self.refuse(404, "", "Sorry, we can't find the page you are looking for.")
        try:
            getattr(self, name)(hub, **{k: v for k, v in found.groupdict().items() if v is not None})
        except Refused as refusal:
            self.refuse(*refusal.args)

    do_HEAD = do_POST = do_GET

    # --- answers --------------------------------------------------------------------------------

    def front(self, hub: HubServer) -> None:
        self.answer(200, b"Hub")

    def absent(self, hub: HubServer) -> None:
        raise Refused(404, "", "not part of the rehearsal")

    def whoami(self, hub: HubServer) -> None:
        if not self.token:
            raise Refused(401, "", "Invalid username or password.")
        self.answer(200, json.dumps({"type": "user", "name": "learner", "auth": {}}).encode())

    def access(self, hub: HubServer, kind: str, repo: str) -> None:
        self.find(hub, kind, repo)
        self.answer(200, b"{}")

    def information(self, hub: HubServer, kind: str, repo: str, revision: str | None = None) -> None:
        found = self.find(hub, kind, repo, revision, public=True)  # also of gated ones
        files = [{"rfilename": name, "size": found.files[name].stat().st_size} for name in found.files]
        gated = "manual" if repo in hub.gated else False
        info = {"_id": "0" * 24, "id": repo, "sha": found.commit, "private": False, "gated": gated}
        info |= {"tags": [], "downloads": 0, "likes": 0, "disabled": False, "siblings": files}
        info |= {"author": repo.split("/")[0], "lastModified": "2026-08-19T00:00:00.000Z"}
        info |= {"createdAt": "2026-08-19T00:00:00.000Z"} | ({"modelId": repo} if kind == "model" else {})
        self.answer(200, json.dumps(info).encode())

    def tree(self, hub: HubServer, kind: str, repo: str, revision: str, path: str = "") -> None:
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = self.find(hub, kind, repo, revision).entries(path, recursive)
        self.answer(200, json.dumps(entries).encode())

    def paths(self, hub: HubServer, kind: str, repo: str, revision: str) -> None:
        found = self.find(hub, kind, repo, revision)
        json_body = "json" in self.headers.get("Content-Type", "")
        asked = json.loads(self.body)["paths"] if json_body else parse_qs(self.body).get("paths", [])
        every = {entry["path"]: entry for entry in found.entries("", recursive=True)}
        self.answer(200, json.dumps([every[path] for path in asked if path in every]).encode())

    def file(self, hub: HubServer, repo: str, revision: str, path: str, kind: str = "model") -> None:
        found = self.find(hub, kind, repo, revision)
        if path not in found.files:
            raise Refused(404, "EntryNotFound", f"{path} does not exist in {repo}", found.commit)
        digest = found.digests[path]
        headers = {"X-Repo-Commit": found.commit, "Accept-Ranges": "bytes"}
        if not is_large(path):
            return self.bytes_of(found.files[path], headers | {"ETag": f'"{digest[:40]}"'})
        hub.stored[digest] = found.files[path]
        size = found.files[path].stat().st_size
        headers |= {"X-Linked-Size": str(size), "X-Linked-Etag": f'"{digest}"'}
        self.answer(302, b"", headers | {"Location": f"{hub.storage}/storage/{digest}"})

    def storage(self, hub: HubServer, digest: str) -> None:
        if self.token:  # an address of the storage is signed, and a client that sends a token there leaks it
            raise Refused(400, "", "Only one auth mechanism allowed")
        if digest not in hub.stored:
            raise Refused(403, "", "no such address")
        self.bytes_of(hub.stored[digest], {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"})

    # --- parts ----------------------------------------------------------------------------------

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ").strip()

    def find(
        self, hub: HubServer, kind: str, repo: str, revision: str | None = None, public: bool = False
    ) -> Repo:
        """The repository, if it exists and this request may read it."""
        found = hub.repository(kind, repo)
        if found is None:  # without a token the Hub does not tell a private repository from none
            raise Refused(404 if self.token else 401, "RepoNotFound", "Repository not found")
        if repo in hub.gated and not public and self.token != GRANTED:
            words = f"Access to {kind} {repo} is restricted. You must have access to it and be authenticated."
            raise Refused(403 if self.token else 401, "GatedRepo", words)
        if revision not in (None, "main", found.commit):
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def bytes_of(self, path: Path, headers: dict[str, str]) -> None:
        data = path.read_bytes()
        if self.command == "GET":
            if self.server.trouble == "stalled" and path.suffix != ".md":
                self.server.never.wait(20)
            self.server.fetched(path)
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        first, last = asked.groups() if asked else ("", "")
        if not first and not last:
            return self.answer(200, data, headers)
        start = int(first) if first else max(0, len(data) - int(last))
        end = min(int(last) + 1, len(data)) if first and last else len(data)
        if start >= len(data):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        self.answer(206, data[start:end], headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})

    def refuse(self, status: int, code: str, words: str, commit: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": words, "X-Repo-Commit": commit}
        self.answer(status, json.dumps({"error": words}).encode(), {k: v for k, v in headers.items() if v})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class HubServer(ThreadingHTTPServer):
    """The server; as a context manager it runs in a thread of its own.

    Args:
        folder: with ``models`` and ``datasets``.
        trouble: "gated" or "gone" (all repositories), "slow" (nothing is answered) or "stalled" (files are
            not); can be set later.
        certificate: (certificate, key) for TLS.
        gated: the repositories that ask for a token.

    Attributes:
        requests: (method, path) of all that was asked; unknown: of what it has no answer for.
    """

    daemon_threads = True

    def __init__(
        self,
        folder: Path,
        trouble: str = "",
        certificate: tuple[Path, Path] | None = None,
        gated: set[str] = frozenset(),
    ):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.trouble, self.gated = Path(folder), trouble, gated
        self.never, self.stored, self.requests, self.unknown = threading.Event(), {}, [], []
        self.repos: dict[Path, Repo] = {}
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        scheme, port = "https" if certificate else "http", self.server_address[1]
        self.url = f"{scheme}://127.0.0.1:{port}"
        # To the Hub's clients the storage is another host: they go by the name. A certificate has one.
        self.storage = self.url if certificate else f"http://localhost:{port}"

    def start(self) -> str:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self.url

    def repository(self, kind: str, name: str) -> Repo | None:
        folder = self.folder / f"{kind}s" / name
        if not folder.is_dir():
            return None
        if folder not in self.repos:
            self.repos[folder] = Repo(folder)
        return self.repos[folder]

    def fetched(self, path: Path) -> None:
        with (self.folder / "served").open("a") as log:
            log.write(path.relative_to(self.folder).as_posix() + "\n")

    def handle_error(self, *_) -> None:
        """Clients that give up are what is tested."""

    def __enter__(self) -> HubServer:
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.shutdown()
        self.server_close()


if __name__ == "__main__":
    server = HubServer(Path(sys.argv[1]))
    print(server.url, flush=True)
    server.serve_forever()
