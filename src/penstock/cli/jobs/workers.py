"""Worker services as the store knows them: what each is called, and whether it would take a job."""

from __future__ import annotations

from penstock.cli.jobs.fields import worker_name
from penstock.cli.jobs.printable import Json, one_line, parsed
from penstock.engines.records import Record, WorkerRecord


def label(worker: WorkerRecord) -> str:
    """What people call *worker*: its host and process, where it tells them."""
    info = _info(worker)
    host, pid = info.get("host"), info.get("pid")
    return one_line(f"{host}/{pid}") if host and pid else worker_name(worker.worker)


def queues(worker: WorkerRecord) -> list[str] | None:
    """The queues that *worker* serves; None for all, or if it doesn't tell."""
    return _names(_info(worker).get("queues"))


def is_live(worker: WorkerRecord) -> bool:
    """Whether its lease still runs."""
    return worker.lease > 0


def would_take(worker: WorkerRecord, job: Record) -> bool:
    """Whether *worker* lives and, as far as it tells, serves the queue of *job* and knows its task."""
    info = _info(worker)
    of, tasks = _names(info.get("queues")), _names(info.get("tasks"))
    return is_live(worker) and (of is None or job.queue in of) and (tasks is None or job.task in tasks)


def _info(worker: WorkerRecord) -> dict[str, Json]:
    info, _ = parsed(worker.info)
    return info if isinstance(info, dict) else {}


def _names(value: Json) -> list[str] | None:
    return [str(name) for name in value] if isinstance(value, list) else None
