"""Flask hands in durable jobs, and shows what became of them; `penstock work` runs them.

    pip install flask 'penstock[cli,sqlite]'
    flask --app examples/enqueue_flask run
    penstock work examples/enqueue_flask.py:jobs        (in the same folder: both open jobs.db there)

    curl -i --data 'to be or not to be' -H 'Idempotency-Key: 1' http://127.0.0.1:5000/texts
    curl http://127.0.0.1:5000/jobs/ID

Once the first request is answered with 202, the job outlives Flask, the worker service, and the machine. It is safe to
send it again: with the same Idempotency-Key it is the same job.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from flask import Flask, current_app, request
from flask.typing import ResponseReturnValue

from penstock import App, JobCancelled, JobFailed, JobUnknown, OutcomeUnknown, Retry, StoreUnavailable, current_job

web = Flask(__name__)
jobs = App(os.environ.get("PENSTOCK_STORE", "sqlite:///jobs.db"), around=web.app_context)


@dataclass
class Count:
    """The result of a job: it comes back as this type, in every process."""

    words: int
    longest: str


@jobs.task(name="count", timeout=60, retry=Retry(5, on=OSError, wait=10))
def count(text: str) -> Count:
    """The job. It runs in an app context, as a view does; its result comes back as a `Count`."""
    words = text.split()
    current_app.logger.info("counting %d words", len(words))
    longest = ""
    for number, word in enumerate(words, start=1):
        longest = max(longest, word, key=len)
        job = current_job()
        if job is not None:
            job.progress(number, len(words))  # tells the store now and then
    return Count(len(words), longest)


@web.post("/texts")
def hand_in() -> ResponseReturnValue:
    text = request.get_data(as_text=True)
    key = request.headers.get("Idempotency-Key")
    patient = count.options(timeout=2)  # seconds that a request waits for the store, should it be busy
    handle = (patient.options(id=f"count {key}") if key else patient).enqueue(text)
    return {"id": handle.id}, 202, {"Location": f"/jobs/{handle.id}"}


@web.get("/jobs/<id>")
def show(id: str) -> ResponseReturnValue:
    """Where your jobs are about people, look first whether this is one of the asker's."""
    handle = jobs.handle(id)
    record = handle.record  # one look at the store: two might see it before and after its end
    if record.ended is None:
        said = record.progress
        return {"state": record.state, "progress": said and {"done": said.done, "total": said.total}}
    try:
        return {"state": record.state, "result": handle.result()}
    except (JobFailed, JobCancelled) as error:
        return {"state": record.state, "error": str(error)}


@web.errorhandler(JobUnknown)
def unknown(error: JobUnknown) -> ResponseReturnValue:
    return {"error": str(error)}, 404


@web.errorhandler(StoreUnavailable)
@web.errorhandler(OutcomeUnknown)
def busy(error: Exception) -> ResponseReturnValue:
    """Nothing was accepted; or nobody knows, and then it is safe to ask again with the same Idempotency-Key."""
    return {"error": "the jobs can't be reached now"}, 503, {"Retry-After": "5"}
