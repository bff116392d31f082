"""A Hub on this machine: the HTTP interface of huggingface.co that uploading and downloading one model uses."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKEN = "hf_of_a_test"


@dataclass
class LocalHub:
    """Repositories in memory: by name and revision, the files.

    Attributes:
        url: where it listens.
        repositories: content by repository, revision and file name.
        requests: method and path of each request.
    """

    url: str = ""
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)


@contextmanager
def local_hub() -> Iterator[LocalHub]:
    """Serve a Hub for as long as the context lasts."""
    hub = LocalHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refuse(self, status: int, code: str) -> None:
            self.answer(status, b"{}", X_Error_Code=code, X_Error_Message=code)

        def json(self, values) -> None:
            self.answer(200, json.dumps(values).encode(), Content_Type="application/json")

        def do_POST(self):
            hub.requests.append(f"POST {self.path}")
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.answer(401, b'{"error": "no token"}')
            elif self.path == "/api/repos/create":
                asked = json.loads(data)
                name = f"{asked['organization']}/{asked['name']}"
                if name in hub.repositories:
                    self.answer(409, json.dumps({"url": f"{hub.url}/{name}"}).encode())
                else:
                    hub.repositories[name] = {"main": {}}
                    hub.private |= {name} if asked.get("private") else set()
                    self.json({"url": f"{hub.url}/{name}", "name": name})
            elif self.path == "/api/validate-yaml":
                _, front, _ = json.loads(data)["content"].split("---\n", 2)
                self.json({"errors": [] if "tags" in yaml.safe_load(front) else ["no tags"], "warnings": []})
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/([^/?]+)(\?.*)?", self.path):
                files = json.loads(data)["files"]
                self.json(
                    {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
                )
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/([^/?]+)", self.path):
                known = hub.repositories[found[1]]
                self.answer(409 if found[2] in known else 201, b"{}")
                known.setdefault(found[2], dict(known["main"]))
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/?]+)(\?.*)?", self.path):
                name, revision = found[1], found[2]
                if revision not in hub.repositories[name]:
                    self.refuse(404, "RevisionNotFound")
                    return
                lines = [json.loads(line) for line in data.splitlines() if line.strip()]
                for line in lines:
                    if line["key"] == "file":
                        content = base64.b64decode(line["value"]["content"])
                        hub.repositories[name][revision][line["value"]["path"]] = content
                commit = hashlib.sha1(data).hexdigest()
                self.json({"commitUrl": f"{hub.url}/{name}/commit/{commit}", "commitOid": commit, "success": True})
            else:
                self.answer(404)

        def do_GET(self):
            hub.requests.append(f"{self.command} {self.path}")
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)(\?.*)?", self.path)
            if not found or found[1] not in hub.repositories:
                self.refuse(404, "RepoNotFound")
            elif found[1] in hub.private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.refuse(401, "RepoNotFound")
            elif found[2] not in hub.repositories[found[1]]:
                self.refuse(404, "RevisionNotFound")
            elif found[3] not in hub.repositories[found[1]][found[2]]:
                self.answer(404, b"{}", X_Error_Code="EntryNotFound", X_Repo_Commit="0" * 40)
            else:
                content = hub.repositories[found[1]][found[2]][found[3]]
                commit = hashlib.sha1(repr(sorted(hub.repositories[found[1]][found[2]].items())).encode()).hexdigest()
                etag = hashlib.sha256(content).hexdigest()
                self.answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=commit)

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
