"""Whether a worker service lives and is ready, over HTTP on loopback: for Kubernetes' probes and the like."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

State = Callable[[], tuple[bool, dict[str, Any]]]


class Health:
    """Answers GET /live and GET /ready with 200 or 503, and a JSON object that says why, on 127.0.0.1:*port*.

    *live*, *ready*: called on a thread of the server; each gives whether it is so, and what there is to say.
    """

    def __init__(self, port: int, live: State, ready: State) -> None:
        answers = {"/live": live, "/ready": ready}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                state = answers.get(self.path.split("?")[0])
                if state is None:
                    self.send_error(404, "ask /live or /ready")
                    return
                is_so, words = state()
                body = json.dumps(words).encode()
                self.send_response(200 if is_so else 503)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Probes are no news."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="penstock-health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens; the one the system chose, if it was made with port 0."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(1)
