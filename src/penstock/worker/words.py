"""What a supervisor and its children say to each other: one JSON object a line, over a pair of sockets.

    supervisor -> child   {"do": "drain" | "cancel"}, {"do": "revoke", "seq", "token", "cause", "reason"},
                          {"do": "lost", "worker"}
    child -> supervisor   {"is": "ready", "worker", "url", …}, {"is": "crashed"}, {"is": "waiting", "why"},
                          {"is": "working"}, {"is": "tired", "stuck"}, {"is": "failed", "why"}, {"is": "over"}

The end of the line says that the other one is gone.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import Any


class Line:
    """One end. `say` may be called from any thread, `hear` from one."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()  # so that words go out whole
        self._heard = bytearray()
        self.is_over = False  # the other end is gone

    def fileno(self) -> int:
        """Readable when there is something to hear."""
        return self._socket.fileno()

    def say(self, **word: Any) -> None:
        """Send *word*; to one who is gone it is lost. Never waits for long: words are few and small."""
        data = json.dumps(word).encode() + b"\n"
        with self._lock, contextlib.suppress(OSError):
            self._socket.sendall(data)

    def hear(self) -> list[dict[str, Any]]:
        """What has come in since; waits for something if nothing has."""
        self._receive()
        return self._whole()

    def rest(self) -> list[dict[str, Any]]:
        """The last words of one who is gone. Waits for nothing: what it has forked may hold its end for ever."""
        self._socket.setblocking(False)
        while self._receive():
            pass
        return self._whole()

    def _receive(self) -> bool:
        """Whether anything came."""
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self._heard += data
        self.is_over = not data
        return bool(data)

    def _whole(self) -> list[dict[str, Any]]:
        *whole, rest = self._heard.split(b"\n")
        self._heard = bytearray(rest)
        return [json.loads(word) for word in whole]

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
