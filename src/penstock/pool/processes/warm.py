"""What the fork server imports before it forks the first worker, so that each starts in a moment."""

import os

from penstock.pool.processes import child as _child  # noqa: F401
from penstock.pool.processes.processors import THREAD_LIMITS

for _name in THREAD_LIMITS:  # for what is imported after this: its threads would not survive the fork anyway
    os.environ.setdefault(_name, "1")
