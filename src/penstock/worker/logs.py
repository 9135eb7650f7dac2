"""Log lines of a worker service: for people on a terminal, or one JSON object a line for programs."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

from penstock.job import current_job

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """A record as one JSON object: time, level, logger, message, what was given as `extra`, and the traceback.

    What a job logs has its id, as `job`: a record of a task in a process has it with it, others are made where it runs.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        told: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        job = current_job()
        if job is not None:
            told["job"] = job.id
        told |= {key: value for key, value in vars(record).items() if key not in _OWN}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


def set_up_logs(level: str, *, as_json: bool) -> None:
    """Send what is logged to standard error, unless the program has set up logging by itself."""
    handler = logging.StreamHandler(sys.stderr)
    if as_json:
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(process)d %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if level != "debug":  # the service has a last word of its own
        logging.getLogger("penstock.stop").setLevel(logging.WARNING)
