"""Whether a worker service lives and is ready, over HTTP on loopback: for Kubernetes' probes and the like."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

State = Callable[[], tuple[bool, dict[str, Any]]]


log = logging.getLogger("penstock.work")

_PATIENCE: Final = 2.0  # seconds that somebody has to ask, and to listen


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Somebody hung up in the middle: their affair, and nothing for standard error."""
        log.debug("a health check was given up: %r", sys.exception())


class Health:
    """Answers GET /live and GET /ready with 200 or 503, and a JSON object that says why, on 127.0.0.1:*port*.

    *live*, *ready*: called on a thread of the server; each gives whether it is so, and what there is to say.
    """

    def __init__(self, port: int, live: State, ready: State) -> None:
        answers = {"/live": live, "/ready": ready}

        class Handler(BaseHTTPRequestHandler):
            timeout = _PATIENCE

            def do_GET(self) -> None:
                state = answers.get(self.path.split("?")[0])
                if state is None:
                    self.answer(404, {"ask": list(answers)})
                else:
                    is_so, words = state()
                    self.answer(200 if is_so else 503, words)

            def do_HEAD(self) -> None:
                self.do_GET()

            def answer(self, code: int, words: dict[str, Any]) -> None:
                body = json.dumps(words).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Probes are no news."""

        self._server = _Server(("127.0.0.1", port), Handler)
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
