"""A web service that takes jobs over HTTP, says so when it can't, and loses none when it is restarted.

    pip install starlette uvicorn
    uvicorn --app-dir examples web_service:app --timeout-graceful-shutdown 5

    curl --data 'to be or not to be' http://127.0.0.1:8000/jobs      202 {"id": "…"}; 503 with Retry-After when full
    curl http://127.0.0.1:8000/jobs/ID                               its state, then its result or its error
    curl http://127.0.0.1:8000/health                                the pool's numbers

On SIGTERM uvicorn answers the requests that it has begun and then ends the app's lifespan, and `penstock.lifespan`
gives the accepted jobs the time to finish: 20 seconds here, together with uvicorn's 5 still below the 30 that
Kubernetes waits. Work that must survive the machine too needs a place on a disk: this example keeps answers in memory.
"""

from __future__ import annotations

import functools
import math
import secrets
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from typing import TypeAlias

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from penstock import BacklogFull, Job, PoolClosed, ThreadPool, current_context, lifespan

Answer: TypeAlias = dict[str, object]
Work: TypeAlias = Callable[[str], Answer]

LARGEST_BODY = 1_000_000  # bytes
LONGEST_WAIT = 60  # seconds that we ever tell a client to stay away


def count_words(text: str) -> Answer:
    """The work itself, a plain function: how many words, and which are the most frequent."""
    words: Counter[str] = Counter()
    for line in text.splitlines():
        current_context().check()  # lets a stop or a deadline interrupt us between two lines
        words.update(line.lower().split())
    return {"words": words.total(), "frequent": words.most_common(3)}


class Shelf:
    """The jobs that people may ask about: all that have not ended yet, and the last *keep* that have.

    The pool bounds the first kind, this class the second; so a service that runs for months doesn't grow.
    Lock: `_moving` guards both maps. It is a leaf. Jobs end in worker threads and are asked for on the event loop.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._moving = threading.Lock()
        self._current: dict[str, Job[Answer]] = {}  # guarded by _moving
        self._ended: OrderedDict[str, Job[Answer]] = OrderedDict()  # guarded by _moving; the oldest comes first

    def put(self, job: Job[Answer]) -> None:
        """Keep *job* until it has ended and *keep* others have ended after it."""
        with self._moving:
            self._current[str(job.id)] = job
        # Outside the lock: if the job has ended already, this calls `_retire` here and now.
        job.add_done_callback(functools.partial(self._retire, str(job.id)))

    def get(self, id: str) -> Job[Answer] | None:
        """The job of that id, or None if there is none or it has been forgotten."""
        with self._moving:
            return self._current.get(id) or self._ended.get(id)

    def _retire(self, id: str, _: object) -> None:
        with self._moving:
            self._ended[id] = self._current.pop(id)
            if len(self._ended) > self._keep:
                self._ended.popitem(last=False)


class Desk:
    """The three things that a client can ask for."""

    def __init__(self, pool: ThreadPool, work: Work, keep: int) -> None:
        self._pool = pool
        self._work = work
        self._shelf = Shelf(keep)

    async def accept(self, request: Request) -> Response:
        """202 and an id, at once; 503 and a time to come back when 100 others wait already."""
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_BODY:
                return problem(413, f"at most {LARGEST_BODY} bytes")
        try:
            text = body.decode()
        except UnicodeDecodeError:
            return problem(400, "the body must be text in UTF-8")

        # The pool would number the jobs 1, 2, 3, and start again at 1 after a restart: a client that still asks for
        # number 3 must not be shown somebody else's.
        id = secrets.token_urlsafe(12)
        try:
            # "reject": to wait for a place would block the event loop, and to wait for it with `asubmit` would only
            # move the line from our backlog into the open connections. The client has the better place to wait.
            job = self._pool.options(id=id, when_full="reject").submit(self._work, text)
        except BacklogFull:
            return problem(503, "all places are taken", headers={"Retry-After": str(self._seconds_to_wait())})
        except PoolClosed:
            return problem(503, "shutting down", headers={"Retry-After": "1"})  # another instance answers next time
        self._shelf.put(job)
        return JSONResponse({"id": id}, status_code=202, headers={"Location": f"/jobs/{id}"})

    async def show(self, request: Request) -> Response:
        """Where a job stands, and its result or its error if it has ended."""
        job = self._shelf.get(request.path_params["id"])
        if job is None:
            return problem(404, "no such job, or it ended long ago")
        about: dict[str, object] = {"id": job.id, "state": job.state, "waited": job.waited, "ran": job.ran}
        if job.done():
            try:
                about["result"] = job.result()
            except Exception as error:  # the job's own, or that it was cancelled or ran out of time
                about["error"] = f"{type(error).__name__}: {error}"
        return JSONResponse(about)

    async def health(self, request: Request) -> Response:
        """The pool's numbers: how many wait and run, how many ended and how, and how long it takes them."""
        return JSONResponse(asdict(self._pool.stats()))

    def _seconds_to_wait(self) -> int:
        """About as long as the jobs in line will take: an honest Retry-After, in whole seconds."""
        stats = self._pool.stats()
        seconds = stats.queued * (stats.ran_p50 or 0.0) / max(stats.workers, 1)
        return min(max(math.ceil(seconds), 1), LONGEST_WAIT)


def problem(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status_code=status, headers=headers)


def create_app(
    work: Work = count_words, *, workers: int = 4, backlog: int = 100, keep: int = 1000, grace: float = 20.0
) -> Starlette:
    """A service that runs *work* on the text of each POST and remembers the last *keep* answers."""
    pool = ThreadPool(workers, backlog=backlog, timeout=30.0, name="web service")
    desk = Desk(pool, work, keep)
    routes = [
        Route("/jobs", desk.accept, methods=["POST"]),
        Route("/jobs/{id}", desk.show),
        Route("/health", desk.health),
    ]
    # The server owns the signals, so there is no `graceful` here: `lifespan` starts the workers before the first
    # request, and stops them after the last one without blocking the event loop.
    return Starlette(routes=routes, lifespan=lifespan(pool, timeout=grace))


app = create_app()
