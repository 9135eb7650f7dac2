"""The end of the interpreter: every pool that is still open is stopped within its grace.

With the public `atexit`, so after the program's non-daemon threads have ended: these may go on submitting after the
main thread is through, which the stdlib's executors refuse. The workers are daemon threads: one that is stuck is left
behind when the interpreter goes.
"""

from __future__ import annotations

import atexit

from penstock.lifecycle import Phase
from penstock.pool.crew import crews
from penstock.pool.ladder import stop_apart


def stop_all() -> None:
    """Stop every open pool of this process."""
    stop_apart([crew for crew in list(crews) if crew.lifecycle.phase is not Phase.CLOSED], "the interpreter is ending")


atexit.register(stop_all)
