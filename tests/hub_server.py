"""A loopback Hub: enough of the wire protocol for the real client to create, push, list and pull repositories.

State lives in memory. What arrives is checked (token, sizes, sha256, parents of commits); every request is recorded;
any request can be made to fail. The client is always the real one, pointed here by HF_ENDPOINT.
"""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_state import Commit, HubError, Repo, git_oid


TOKEN, USER = "hf_loopback", "tester"
LFS_SUFFIXES = (".safetensors", ".bin", ".png", ".parquet", ".jpg")


class Hub:
    """The state of the server, and its faults."""

    def __init__(self, handler: Any = None) -> None:
        self.lock = threading.RLock()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.bytes_sent = 0
        self.fault: Callable[[int, str, str], str | None] = lambda index, method, path: None
        handler = type("BoundHandler", (handler or Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def reset(self) -> None:
        """Forget requests and faults, keep the repositories."""
        self.requests, self.bytes_sent = [], 0
        self.fault = lambda index, method, path: None

    def listing(self, name: str, kind: str = "models", revision: str = "main") -> dict[str, str]:
        """Path -> sha256 of a revision."""
        commit = self.repos[kind, name].at(revision)
        return dict(commit.files) if commit else {}

    def store(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return digest

    def commit(self, repo: Repo, title: str, files: dict[str, str], ref: str = "main") -> Commit:
        parent = repo.refs.get(ref, "")
        sha = hashlib.sha1(
            json.dumps([repo.kind, repo.name, parent, title, files, len(repo.commits)]).encode()
        ).hexdigest()
        commit = Commit(sha, title, files)
        repo.commits.append(commit)
        repo.refs[ref] = sha
        return commit


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""

    # One request

    def handle_request(self) -> None:
        self.path_only, self.query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        with self.hub.lock:
            index = len(self.hub.requests)
            self.hub.requests.append((self.command, self.path_only))
        fault = self.hub.fault(index, self.command, self.path_only)
        if fault == "cut":
            self.cut()
            return
        body = self.read_body()
        self.cut_after = fault == "cut_body"
        try:
            if fault == "slow":
                time.sleep(0.5)
            elif fault and fault.isdigit():
                raise HubError(int(fault), "made to fail")
            self.route(body)
        except HubError as error:
            self.reply(error.body if error.body is not None else {"error": error.message}, error.status, error)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815

    def cut(self) -> None:
        """Reset the connection, as a network does."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(
        self, body: Any, status: int = 200, error: HubError | None = None, headers: dict[str, str] | None = None
    ) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}
        if error is not None:
            headers["X-Error-Message"] = error.message
            if error.code:
                headers["X-Error-Code"] = error.code
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if getattr(self, "cut_after", False):
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.cut()
            return
        self.hub.bytes_sent += len(content)
        self.wfile.write(content)

    @property
    def authorised(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def must_write(self) -> None:
        if not self.authorised:
            raise HubError(401, "Invalid username or password.")

    def repo(self, kind: str, name: str) -> Repo:
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and not self.authorised):
            raise HubError(404 if self.authorised else 401, f"Repository {name} not found", "RepoNotFound")
        return repo

    def revision(self, repo: Repo, revision: str) -> Commit:
        commit = repo.at(unquote(revision))
        if commit is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def route(self, body: bytes) -> None:
        for method, pattern, action in ROUTES:
            found = re.fullmatch(pattern, self.path_only)
            if found and (self.command == method or (method == "GET" and self.command == "HEAD")):
                with self.hub.lock:
                    getattr(self, action)(body, **found.groupdict())
                return
        raise HubError(404, f"{self.command} {self.path_only}: no such page")

    # Accounts and repositories

    def whoami(self, body: bytes) -> None:
        if not self.authorised:
            raise HubError(401, "Invalid credentials in Authorization header")
        self.reply(
            {"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}}
        )

    def create(self, body: bytes) -> None:
        self.must_write()
        wanted = json.loads(body)
        kind = f"{wanted.get('type') or 'model'}s"
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        prefix = "" if kind == "models" else f"{kind}/"
        answer = {"url": f"{self.hub.url}/{prefix}{name}", "name": name}
        if (kind, name) in self.hub.repos:
            raise HubError(409, "You already created this repo", body=answer)
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.hub.repos[kind, name] = repo = Repo(kind, name, private)
        self.hub.commit(repo, "initial commit", {".gitattributes": self.hub.store(b"*.safetensors filter=lfs\n")})
        self.reply(answer)

    def validate_yaml(self, body: bytes) -> None:
        self.reply({"errors": [], "warnings": []})

    def info(self, body: bytes, kind: str, name: str, rev: str | None = None) -> None:
        repo = self.repo(kind, name)
        commit = self.revision(repo, rev or "main")
        siblings = [{"rfilename": p, "size": self.lfs_size(d)} for p, d in sorted(commit.files.items())]
        answer = {"id": name, "sha": commit.sha, "siblings": siblings, "tags": [], "private": repo.private}
        self.reply({**answer, "gated": "manual" if repo.gated else False, "downloads": 0, "likes": 0})

    def row(self, path: str, digest: str) -> dict[str, Any]:
        content = self.hub.blobs[digest]
        row: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
        return (
            {**row, "lfs": {"oid": digest, "size": len(content), "pointerSize": 130}}
            if path.endswith(LFS_SUFFIXES)
            else row
        )

    def tree(self, body: bytes, kind: str, name: str, rev: str, path: str | None = None) -> None:
        commit = self.revision(self.repo(kind, name), rev)
        below = f"{unquote(path)}/" if path else ""
        files = {p: d for p, d in commit.files.items() if p.startswith(below)}
        if below and not files:
            raise HubError(404, f"{path} does not exist on {rev}", "EntryNotFound")
        folders = {below + "/".join(p[len(below) :].split("/")[:n]) for p in files for n in range(1, p.count("/") + 1)}
        folders = {f for f in folders if any(p.startswith(f"{f}/") for p in files)}
        if (self.query.get("recursive") or ["false"])[0].lower() != "true":
            folders = {f for f in folders if "/" not in f[len(below) :]}
            files = {p: d for p, d in files.items() if "/" not in p[len(below) :]}
        rows = [{"type": "directory", "path": f, "oid": git_oid(f.encode()), "size": 0} for f in sorted(folders)]
        self.reply(rows + [self.row(p, d) for p, d in files.items()])

    def paths_info(self, body: bytes, kind: str, name: str, rev: str) -> None:
        commit = self.revision(self.repo(kind, name), rev)
        text = body.decode()
        wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
        self.reply([self.row(path, commit.files[path]) for path in wanted if path in commit.files])

    def refs(self, body: bytes, kind: str, name: str) -> None:
        repo = self.repo(kind, name)
        rows = [{"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": sha} for ref, sha in repo.refs.items()]
        self.reply({"branches": rows, "tags": [], "converts": []})

    def branch(self, body: bytes, kind: str, name: str, rev: str) -> None:
        self.must_write()
        repo = self.repo(kind, name)
        if unquote(rev) in repo.refs:
            raise HubError(409, "Reference already exists")
        start = (json.loads(body or b"{}") or {}).get("startingPoint") or "main"
        repo.refs[unquote(rev)] = self.revision(repo, start).sha
        self.reply({})

    # Uploads

    def preupload(self, body: bytes, kind: str, name: str, rev: str) -> None:
        self.must_write()
        repo = self.repo(kind, name)
        known = (repo.at(unquote(rev)) or Commit("", "", {})).files
        answer = []
        for file in json.loads(body)["files"]:
            path, digest = file["path"], known.get(file["path"])
            mode = "lfs" if path.endswith(LFS_SUFFIXES) and file["size"] else "regular"
            row = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            if digest:
                row["oid"] = digest if path.endswith(LFS_SUFFIXES) else git_oid(self.hub.blobs[digest])
            answer.append(row)
        self.reply({"files": answer})

    def lfs_batch(self, body: bytes, name: str, kind: str = "models") -> None:
        self.must_write()
        self.repo(kind or "models", name)
        objects = []
        for entry in json.loads(body)["objects"]:
            row = {"oid": entry["oid"], "size": entry["size"]}
            if entry["oid"] not in self.hub.blobs:
                href = f"{self.hub.url}/_lfs/{entry['oid']}"
                row["actions"] = {
                    "upload": {"href": f"{href}?size={entry['size']}"},
                    "verify": {"href": f"{href}/verify"},
                }
            objects.append(row)
        self.reply({"transfer": "basic", "objects": objects})

    def lfs_put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid or len(body) != int(self.query["size"][0]):
            raise HubError(400, "what arrived is not what was announced")
        self.hub.store(body)
        self.reply({})

    def lfs_size(self, oid: str) -> int:
        return len(self.hub.blobs[oid]) if oid in self.hub.blobs else -1

    def lfs_verify(self, body: bytes, oid: str) -> None:
        if self.lfs_size(oid) != json.loads(body)["size"]:
            raise HubError(404, "no such object")
        self.reply({})

    def make_commit(self, body: bytes, kind: str, name: str, rev: str) -> None:
        self.must_write()
        repo, ref = self.repo(kind, name), unquote(rev)
        pull_request = (self.query.get("create_pr") or ["0"])[0] == "1"
        base = self.revision(repo, ref)
        files, title = dict(base.files), ""
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, base.sha):
                    raise HubError(412, "A commit has happened since. Please refresh and try again.")
            elif entry["key"] == "file":
                files[value["path"]] = self.hub.store(base64.b64decode(value["content"]))
            elif entry["key"] == "lfsFile":
                if self.lfs_size(value["oid"]) != value["size"]:
                    raise HubError(400, f"LFS object of {value['path']} was not uploaded")
                files[value["path"]] = value["oid"]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"])
        if pull_request:
            ref = f"refs/pr/{sum(r.startswith('refs/pr/') for r in repo.refs) + 1}"
        commit = self.hub.commit(repo, title, files, ref)
        answer = {"commitUrl": f"{self.hub.url}/{name}/commit/{commit.sha}", "commitOid": commit.sha}
        if pull_request:
            answer["pullRequestUrl"] = f"{self.hub.url}/{name}/discussions/{ref.rsplit('/', 1)[1]}"
        self.reply(answer)

    # Downloads

    def resolve(self, body: bytes, name: str, rev: str, path: str, kind: str | None = None) -> None:
        repo = self.repo(kind or "models", name)
        if repo.gated:
            raise HubError(403, f"Access to model {name} is restricted", "GatedRepo")
        commit = self.revision(repo, rev)
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        digest = commit.files.get(unquote(path))
        if digest is None:
            error = HubError(404, f"Entry {path} not found", "EntryNotFound")
            self.reply({"error": error.message}, 404, error, {"X-Repo-Commit": commit.sha})
            return
        self.reply_file(digest, path, headers)

    def reply_file(self, digest: str, path: str, headers: dict[str, str]) -> None:
        content = self.hub.blobs[digest]
        headers["ETag"] = f'"{digest if path.endswith(LFS_SUFFIXES) else git_oid(content)}"'
        if path.endswith(LFS_SUFFIXES):
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            self.reply(content, headers=headers)
            return
        start, end = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
        if start >= len(content):
            raise HubError(416, "range not satisfiable")
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self.reply(content[start : end + 1], 206, headers=headers)


_KIND, _NAME, _REV = r"(?P<kind>models|datasets|spaces)", r"(?P<name>[^/]+/[^/]+?)", r"(?P<rev>[^/]+)"
_API = rf"/api/{_KIND}/{_NAME}"
ROUTES = [
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/repos/create", "create"),
    ("POST", "/api/validate-yaml", "validate_yaml"),
    ("POST", rf"{_API}/preupload/{_REV}", "preupload"),
    ("POST", rf"{_API}/commit/{_REV}", "make_commit"),
    ("POST", rf"{_API}/paths-info/{_REV}", "paths_info"),
    ("POST", rf"{_API}/branch/{_REV}", "branch"),
    ("GET", rf"{_API}/tree/{_REV}(/(?P<path>.+))?", "tree"),
    ("GET", rf"{_API}/refs", "refs"),
    ("GET", rf"{_API}/revision/{_REV}", "info"),
    ("GET", _API, "info"),
    ("POST", rf"/((?P<kind>datasets|spaces)/)?{_NAME}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/_lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("POST", r"/_lfs/(?P<oid>[0-9a-f]{64})/verify", "lfs_verify"),
    ("GET", rf"/((?P<kind>datasets|spaces)/)?{_NAME}/resolve/{_REV}/(?P<path>.+)", "resolve"),
]
