"""What the fork server imports before it forks the first worker, so that each starts in a moment."""

import os

from penstock.pool.processes import child as _child  # noqa: F401
from penstock.pool.processes.processors import THREAD_LIMITS
from penstock.pool.processes.server import leave_signals_to_parent, tidy_up_at_the_end

# For what is imported after this: its threads would not survive the fork anyway. `cool` takes it away again.
LIMITED = [name for name in THREAD_LIMITS if os.environ.setdefault(name, "") == ""]
os.environ.update(dict.fromkeys(LIMITED, "1"))

leave_signals_to_parent()
tidy_up_at_the_end()
