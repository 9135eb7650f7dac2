"""What the peers' workers of `postgres.py` run: their apps, on the database that a folder names.

procrastinate --app bench.postgres_worker.procrastinate worker
python -m bench.postgres_worker pgqueuer     as `pgq run --batch-size 100` does it, in uvloop if it is there
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from bench import durable_jobs, postgres_jobs
from bench.loops import run_fast

folder = Path(os.environ[durable_jobs.FOLDER])


def __getattr__(name: str) -> Any:
    """`procrastinate`: an app, made when it is asked for."""
    if name != "procrastinate":
        raise AttributeError(name)
    globals()[name] = made = postgres_jobs.procrastinate_app(folder)
    return made


if __name__ == "__main__" and sys.argv[1:] == ["pgqueuer"]:
    import pgqueuer

    run_fast(pgqueuer.run(partial(postgres_jobs.pgqueuer_manager, folder), batch_size=100))
