"""What the workers of `durable.py` import: the apps on the store in the folder that their environment names.

penstock work bench.durable_worker:app
huey_consumer bench.durable_worker.huey
python -m bench.durable_worker persist-queue | litequeue
"""

import os
import sys
from pathlib import Path
from typing import Any

from bench import durable_jobs

folder = Path(os.environ[durable_jobs.FOLDER])


def __getattr__(name: str) -> Any:
    """`app` or `huey`, made when it is asked for: a worker needs one of them, and has one of them open."""
    if name == "app":
        made: Any = durable_jobs.penstock_app(folder)
    elif name == "huey":
        made, *_ = durable_jobs.huey_app(folder)
    else:
        raise AttributeError(name)
    globals()[name] = made
    return made


if __name__ == "__main__":
    drain = {"persist-queue": durable_jobs.drain_persist_queue, "litequeue": durable_jobs.drain_lite_queue}
    drain[sys.argv[1]](folder)
