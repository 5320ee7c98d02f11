"""Google Cloud Storage on loopback, as far as gcsfs, google-cloud-storage and TensorStore ask: objects with
generations, ranges, lists, uploads in one request, in two parts and in chunks, copies, preconditions, and faults.
"""

import base64
import contextlib
import dataclasses
import datetime
import email.utils
import hashlib
import http.server
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec
import pytest

ENVIRONMENT = {
    "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
    "GOOGLE_CLOUD_PROJECT": "p",
    "NO_GCE_CHECK": "true",
}


@dataclasses.dataclass
class Object:
    content: bytes
    generation: int
    updated: float  # by the clock of the server
    metageneration: int = 1


class Bucket:
    """A bucket named `bucket`, and what a test may look at and change.

    Attributes:
        objects: by name.
        ahead: seconds by which the clock of the server is ahead of this machine's.
        fault: (method, path, objects named) -> status of a request that fails; None lets it pass.
    """

    def __init__(self, url: str):
        self.url, self.environment = url, ENVIRONMENT | {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url}
        self.objects: dict[str, Object] = {}
        self.ahead = 0.0
        self.fault: Callable[[str, str, str], int | None] = lambda method, path, name: None
        self.lock, self._generation, self.uploads = threading.RLock(), 1_000, {}

    def now(self) -> float:
        return time.time() + self.ahead

    def put(self, name: str, content: bytes) -> None:
        """An object, as another machine would write it."""
        self._generation += 1
        self.objects[name] = Object(content, self._generation, self.now())

    def names(self, folder: str) -> set[str]:
        """Objects below a folder, by their names below it."""
        with self.lock:
            return {name.removeprefix(folder + "/") for name in self.objects if name.startswith(folder + "/")}


@contextlib.contextmanager
def served() -> Iterator[Bucket]:
    """A bucket that is served, and the environment that leads gcsfs and TensorStore of this process there."""
    server = _Server(("localhost", 0), _Handler)
    server.bucket = Bucket(f"http://localhost:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in server.bucket.environment.items():
                patch.setenv(name, value)
            patch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
            yield server.bucket
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # a client may leave
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    @property
    def bucket(self) -> Bucket:
        return self.server.bucket

    def log_message(self, *given):
        pass

    def date_time_string(self, timestamp=None):
        return email.utils.formatdate(self.bucket.now(), usegmt=True)

    def do_GET(self):
        self._answer(self._read)

    def do_POST(self):
        self._answer(self._write)

    do_PUT = do_POST

    def do_PATCH(self):
        self._answer(self._change)

    def do_DELETE(self):
        self._answer(self._delete)

    def _answer(self, how):
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        self.body = _chunks(self) if chunked else self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(address.query).items()}
        found = re.fullmatch(r"(?:/upload|/download)?/storage/v1/b/([^/]+)(?:/o(?:/([^/]+)(.*))?)?", address.path)
        bucket, name, self.rest = found.groups() if found else ("", None, "")
        self.name = unquote(name or self.query.get("name", ""))
        self.of_bucket = not address.path.rstrip("/").endswith("/o") and name is None
        if not self.name and self.query.get("uploadType") == "multipart":
            self.name = json.loads(_parts(self)[0])["name"]
        if not self.name and self.query.get("uploadType") == "resumable" and "upload_id" not in self.query:
            self.name = json.loads(self.body)["name"]
        with self.bucket.lock:
            if status := self.bucket.fault(self.command, address.path, self.name):
                self._error(status)
            elif unquote(bucket) != "bucket":
                self._error(404)
            else:
                how()

    def _read(self):
        if self.of_bucket:
            self._json({"kind": "storage#bucket", "id": "bucket", "name": "bucket"})
        elif not self.name:
            self._list()
        elif self.name not in self.bucket.objects:
            self._error(404)
        elif self.query.get("alt") == "media":
            self._media(self.bucket.objects[self.name])
        else:
            self._json(self._about(self.name))

    def _media(self, found: Object):
        if self.query.get("ifGenerationNotMatch") == str(found.generation):
            self._send(304, b"")
            return
        if self.query.get("ifGenerationMatch", str(found.generation)) != str(found.generation):
            self._error(412)
            return
        content, status, headers = found.content, 200, {}
        if asked := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first, last = asked.groups()
            start = int(first) if first else len(content) - int(last)
            stop = min(int(last) + 1, len(content)) if first and last else len(content)
            if start >= len(content):
                self._error(416)
                return
            headers = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
            content, status = content[start:stop], 206
        headers |= {"x-goog-generation": str(found.generation), "x-goog-metageneration": "1"}
        self._send(status, content, headers, "application/octet-stream")

    def _list(self):
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        items, prefixes = [], set()
        for name in sorted(self.bucket.objects):
            below = name.removeprefix(prefix)
            if not name.startswith(prefix) or not self.query.get("startOffset", "") <= name:
                continue
            if name >= self.query.get("endOffset", "\U0010ffff"):
                continue
            if delimiter and delimiter in below:
                prefixes.add(prefix + below.partition(delimiter)[0] + delimiter)
            else:
                items.append(self._about(name))
        self._json({"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def _write(self):
        if "upload_id" in self.query:
            self._chunk(self.query["upload_id"])
        elif copied := re.fullmatch("/(?:rewriteTo/b/bucket|moveTo)/o/([^/]+)", self.rest or ""):
            self._copy(unquote(copied[1]))
        elif self._fits(self.name):
            kind = self.query.get("uploadType")
            if kind == "resumable":
                key = str(len(self.bucket.uploads))
                self.bucket.uploads[key] = (self.name, bytearray())
                address = f"{self.bucket.url}/upload/storage/v1/b/bucket/o?uploadType=resumable&upload_id={key}"
                self._send(200, b"", {"Location": address})
                return
            self.bucket.put(self.name, _parts(self)[1] if kind == "multipart" else self.body)
            self._json(self._about(self.name))

    def _chunk(self, key: str):
        name, written = self.bucket.uploads[key]
        written += self.body
        size = self.headers.get("Content-Range", "").rpartition("/")[2]
        if size != str(len(written)):
            self._send(308, b"", {"Range": f"bytes=0-{len(written) - 1}"})
            return
        self.bucket.put(name, bytes(written))
        self._json(self._about(name))

    def _copy(self, target: str):
        if self.name not in self.bucket.objects:
            self._error(404)
            return
        self.bucket.put(target, self.bucket.objects[self.name].content)
        if "moveTo" in self.rest:
            del self.bucket.objects[self.name]
            self._json(self._about(target))
        else:
            self._json({"kind": "storage#rewriteResponse", "done": True, "resource": self._about(target)})

    def _delete(self):
        if "upload_id" in self.query:
            self._send(499, b"")
        elif self.name not in self.bucket.objects:
            self._error(404)
        elif self._fits(self.name):
            del self.bucket.objects[self.name]
            self._send(204, b"")

    def _change(self):
        if self.name not in self.bucket.objects:
            self._error(404)
        elif self._fits(self.name):
            found = self.bucket.objects[self.name]
            found.metageneration += 1
            found.updated = self.bucket.now()
            self._json(self._about(self.name))

    def _fits(self, name: str) -> bool:
        """Whether the precondition of a request holds; else it is answered."""
        found = self.bucket.objects.get(name)
        now = str(found.generation) if found else "0"
        if self.query.get("ifGenerationMatch", now) != now:
            self._error(412)
            return False
        return True

    def _about(self, name: str) -> dict:
        found = self.bucket.objects[name]
        updated = datetime.datetime.fromtimestamp(found.updated, datetime.UTC).isoformat(timespec="milliseconds")
        changed = updated.replace("+00:00", "Z")
        about = {
            "kind": "storage#object",
            "id": name,
            "name": name,
            "bucket": "bucket",
            "size": str(len(found.content)),
        }
        generations = {"generation": str(found.generation), "metageneration": str(found.metageneration)}
        md5 = base64.b64encode(hashlib.md5(found.content).digest()).decode()
        return about | generations | {"updated": changed, "timeCreated": changed, "md5Hash": md5}

    def _json(self, content: dict):
        self._send(200, json.dumps(content).encode())

    def _error(self, status: int):
        self._send(status, json.dumps({"error": {"code": status, "message": f"a fault of status {status}"}}).encode())

    def _send(self, status: int, content: bytes, headers: dict | None = None, kind: str = "application/json"):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if status not in (204, 304):
            self.wfile.write(content)


def _parts(request: _Handler) -> tuple[bytes, bytes]:
    """What a body of two parts says of the object, and its content."""
    boundary = re.search('boundary="?([^";]+)', request.headers["Content-Type"])[1].encode()
    _, about, content = request.body.split(b"--" + boundary, 2)
    content = content.rpartition(b"--" + boundary)[0]
    return about.partition(b"{")[1] + about.partition(b"{")[2], _body(content)


def _body(part: bytes) -> bytes:
    end = b"\r\n" if part.startswith(b"\r\n") else b"\n"
    return part.partition(end + end)[2].removesuffix(end)


def _chunks(request: _Handler) -> bytes:
    content = b""
    while size := int(request.rfile.readline().split(b";")[0], 16):
        content += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return content
