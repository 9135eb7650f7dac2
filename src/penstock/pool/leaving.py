"""The end of the interpreter: every pool that is still open is stopped within its grace.

With the public `atexit`, so after the program's non-daemon threads have ended: these may go on submitting after the
main thread is through, which the stdlib's executors refuse. The workers are daemon threads: one that is stuck is left
behind when the interpreter goes.
"""

from __future__ import annotations

import atexit
from typing import Final

from penstock import clock
from penstock.lifecycle import Phase
from penstock.pool.crew import crews
from penstock.pool.ladder import stop_apart

_TO_TELL: Final = 1.0  # seconds for observers and the log, on threads that go with the interpreter


def stop_all() -> None:
    """Stop every open pool of this process. What the others have to say still is heard, too."""
    pools = list(crews)
    stop_apart([crew for crew in pools if crew.lifecycle.phase is not Phase.CLOSED], "the interpreter is ending")
    until = clock.monotonic() + _TO_TELL
    for crew in pools:
        crew.ledger.wait_told(max(0.0, until - clock.monotonic()))


atexit.register(stop_all)
