"""A tiny service that can be deployed blue-green. Python's standard library is all it needs.

Reads HOST, PORT, VERSION and ENVIRONMENT, which bleen sets. Ends with 0 after SIGTERM, once the requests under way are answered.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HEALTH_PATHS = ("/api/v1/health", "/api/v1/health/ready", "/api/v1/health/startup")
LONGEST_ANSWER_S = 20.0
ME = {"version": os.environ["VERSION"], "environment": os.environ["ENVIRONMENT"]}


def main() -> None:
    server = ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler)
    # In a thread of its own: shutdown() waits for serve_forever(), which the signal has interrupted.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.1)
    with Handler.changed:
        Handler.changed.wait_for(lambda: Handler.under_way == 0, timeout=LONGEST_ANSWER_S)


class Handler(BaseHTTPRequestHandler):
    """Answers every GET with JSON that names the version, health checks included: this is how bleen knows who answers."""

    protocol_version = "HTTP/1.1"  # nginx keeps connections open
    changed = threading.Condition()
    under_way = 0

    def do_GET(self) -> None:
        self._count(+1)
        try:
            if self.path in HEALTH_PATHS:
                self._answer(200, {"status": "ok"} | ME)
            elif self.path == "/":
                self._answer(200, {"hello": "world"} | ME)
            else:
                self._answer(404, {"error": "not found"} | ME)
        finally:
            self._count(-1)

    def log_message(self, *_: object) -> None:
        """nginx logs the requests."""

    def _answer(self, status: int, body: dict[str, str]) -> None:
        encoded = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def _count(self, step: int) -> None:
        with Handler.changed:
            Handler.under_way += step
            Handler.changed.notify_all()


if __name__ == "__main__":
    main()
