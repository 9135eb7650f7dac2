"""For the tests of programs that use durable jobs: no store on disk, no worker service, and time that you move.

with testing.in_memory(app) as clock:     # the app's jobs are kept in memory; nothing runs by itself
    signup("ann")                         # your code, which enqueues
    testing.assert_enqueued(welcome, "ann")
    testing.run_all(app)                  # run what waits, and what that enqueues, and retries in their time

with testing.inline(app):                 # enqueue runs the job at once
    assert signup("ann").result() == "sent"
"""

from __future__ import annotations

from penstock.testing.enqueued import Enqueued, assert_enqueued, enqueued
from penstock.testing.fake_clock import FakeClock
from penstock.testing.running import run_all
from penstock.testing.swapped import in_memory, inline

__all__ = ["Enqueued", "FakeClock", "assert_enqueued", "enqueued", "in_memory", "inline", "run_all"]
