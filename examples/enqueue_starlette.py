"""An ASGI service (Starlette, and FastAPI likewise) hands in durable jobs and waits for results without blocking.

    pip install starlette uvicorn 'penstock[cli,sqlite]'
    uvicorn --app-dir examples enqueue_starlette:web
    penstock work examples/enqueue_starlette.py:jobs    (in the same folder: both open jobs.db there)

    curl -i --data 'to be or not to be' -H 'Idempotency-Key: 1' http://127.0.0.1:8000/texts
    curl 'http://127.0.0.1:8000/jobs/ID?wait=20'

The second request is answered as soon as the job has ended, or after 20 seconds with how far it is. Thousands may wait
so at once: each is a coroutine that sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from penstock import App, JobCancelled, JobFailed, JobUnknown, OutcomeUnknown, Retry, StoreUnavailable, current_job

jobs = App(os.environ.get("PENSTOCK_STORE", "sqlite:///jobs.db"))


@dataclass
class Count:
    """The result of a job: it comes back as this type, in every process."""

    words: int
    longest: str


@jobs.task(name="count", timeout=60, retry=Retry(5, on=OSError, wait=10))
async def count(text: str) -> Count:
    """The job. An `async def` runs on the worker's event loop, a hundred at once; a `def` on one of its threads."""
    words = text.split()
    longest = ""
    for number, word in enumerate(words, start=1):
        longest = max(longest, word, key=len)
        job = current_job()
        if job is not None:
            job.progress(number, len(words))  # tells the store now and then
        await asyncio.sleep(0)
    return Count(len(words), longest)


async def hand_in(request: Request) -> JSONResponse:
    text = (await request.body()).decode()
    key = request.headers.get("Idempotency-Key")
    patient = count.options(timeout=2)  # seconds that a request waits for the store, should it be busy
    handle = await (patient.options(id=f"count {key}") if key else patient).aenqueue(text)
    return JSONResponse({"id": handle.id}, 202, {"Location": f"/jobs/{handle.id}"})


async def show(request: Request) -> JSONResponse:
    """Where your jobs are about people, look first whether this is one of the asker's."""
    handle = jobs.handle(request.path_params["id"])
    wait = min(30.0, float(request.query_params.get("wait", 0)))
    if wait:
        with contextlib.suppress(TimeoutError, JobFailed, JobCancelled):
            await handle.aresult(timeout=wait)
    record = await handle.arecord()  # one look at the store: two might see it before and after its end
    if record.ended is None:
        said = record.progress
        return JSONResponse({"state": record.state, "progress": said and {"done": said.done, "total": said.total}})
    try:
        return JSONResponse({"state": record.state, "result": asdict(await handle.aresult())})
    except (JobFailed, JobCancelled) as error:
        return JSONResponse({"state": record.state, "error": str(error)})


async def unknown(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 404)


async def busy(request: Request, error: Exception) -> JSONResponse:
    """Nothing was accepted; or nobody knows, and then it is safe to ask again with the same Idempotency-Key."""
    return JSONResponse({"error": "the jobs can't be reached now"}, 503, {"Retry-After": "5"})


@contextlib.asynccontextmanager
async def lifespan(web: Starlette) -> AsyncIterator[None]:
    yield
    await asyncio.to_thread(jobs.close)  # what was accepted stays; whoever still waits here is told


web = Starlette(
    routes=[Route("/texts", hand_in, methods=["POST"]), Route("/jobs/{id:path}", show)],
    exception_handlers={JobUnknown: unknown, StoreUnavailable: busy, OutcomeUnknown: busy},
    lifespan=lifespan,
)
