"""What the fork server imports before it forks the first worker, so that each starts in a moment."""

from penstock.pool.processes import child

child.limit_threads(1)  # for what is imported after this: its threads would not survive the fork anyway
