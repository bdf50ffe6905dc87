"""A W&B server on loopback, which works or fails in one of several ways. It needs no network."""

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

API_KEY = "k" * 40
FAULTS = ("hangs", "drips", "answers 500", "answers null", "answers garbage", "dies")


class Server(ThreadingHTTPServer):
    """The server. fault: one of FAULTS; empty where it works. It keeps what it receives, by the id of the run."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, fault: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault, self.closing = fault, threading.Event()
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.has_failed = threading.Event()  # set by the first request that meets the fault

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """Ignore clients that were killed."""


@contextlib.contextmanager
def serving(fault: str = "") -> Iterator[Server]:
    """Run a server in a thread."""
    server = Server(fault)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        fault = self.server.fault
        if fault and (fault != "dies" or "file_stream" in self.path):
            self.server.has_failed.set()
        if fault == "hangs":
            self.server.closing.wait()
        elif fault == "drips":
            self._drip()
        elif fault == "dies" and "file_stream" in self.path:
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault.startswith("answers"):
            self._send({"500": b"", "null": b'{"data":null}', "garbage": b"\x00\xff<"}[fault.split()[1]])
        else:
            self._send(json.dumps(self._answer(body)).encode())

    do_GET = do_PUT = do_POST

    def _drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        with contextlib.suppress(OSError):
            while not self.server.closing.is_set():
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.05)

    def _send(self, content: bytes) -> None:
        self.send_response(500 if self.server.fault == "answers 500" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, body: bytes) -> dict[str, Any]:
        if self.path.endswith("/file_stream"):
            id = self.path.split("/")[-2]
            part = json.loads(body).get("files", {}).get("wandb-history.jsonl")
            if part is not None:
                rows = [json.loads(row) for row in part["content"]]
                self.server.history[id] = [*self.server.history.get(id, [])[: part["offset"]], *rows]
            return {}
        if self.path != "/graphql":
            return {}
        query = json.loads(body)
        return {"data": self._data(query["query"], query.get("variables") or {})}

    def _data(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": "kd", "entity": {"id": "e", "name": "me"}}
        if "RunResumeStatus" in query:
            return {"model": {**project, "bucket": self._stored(variables["name"])}}
        if "UpsertBucket" in query:
            bucket = {"id": "b", "name": variables.get("name"), "displayName": "run", "description": None}
            bucket |= {"config": "{}", "sweepName": None, "project": project, "historyLineCount": 0}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "CreateRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.url}/upload/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {}

    def _stored(self, id: str) -> dict[str, Any] | None:
        rows = self.server.history.get(id)
        if rows is None:
            return None
        counts = {"logLineCount": 0, "historyLineCount": len(rows), "eventsLineCount": 0}
        tails = {"historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]), "eventsTail": "[]"}
        rest = {"summaryMetrics": "{}", "displayName": "run", "config": "{}", "tags": [], "notes": None}
        return {"id": "b", "name": id, **counts, **tails, **rest, "wandbConfig": '{"t": 1}'}
