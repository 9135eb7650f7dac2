"""A real server process for test_web_service.py: the example's app, with a job that the test holds by two strings.

    python gated_service.py LISTENER GATE JOURNAL GRACE

The first three are file descriptors that the test hands down: a socket that listens already, so that requests can be
sent at once; a pipe that holds every job until the test closes its other end; and a pipe that gets a line when a job
starts and when it ends.
"""

from __future__ import annotations

import os
import socket
import sys

import uvicorn

from examples.web_service import Answer, create_app

LISTENER, GATE, JOURNAL = map(int, sys.argv[1:4])
GRACE = float(sys.argv[4])


def gated(text: str) -> Answer:
    os.write(JOURNAL, f"started {text}\n".encode())
    os.read(GATE, 1)  # nothing is ever written: it returns, in all jobs and for ever, once the other end is closed
    os.write(JOURNAL, f"ended {text}\n".encode())
    return {"text": text}


if __name__ == "__main__":
    app = create_app(gated, workers=1, backlog=2, grace=GRACE)
    # "info": the test waits for uvicorn's own word that it has begun to shut down.
    uvicorn.Server(uvicorn.Config(app, log_level="info")).run(sockets=[socket.socket(fileno=LISTENER)])
