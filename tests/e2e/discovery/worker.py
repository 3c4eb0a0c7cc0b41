"""A worker that is nothing but its health: `worker.py PORT` answers 200 to /health until it is ended."""

from __future__ import annotations

import http.server
import sys


class Health(http.server.BaseHTTPRequestHandler):
    """Answers what `status` says."""

    status = 200

    def do_GET(self) -> None:
        """Any path."""
        self.send_response(type(self).status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
