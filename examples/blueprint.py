"""The classic production worker pool, in five steps. Start reading here.

    python examples/blueprint.py        takes about three seconds; press Ctrl-C half way to see step 5

Three workers pack fifteen orders. One order is never done and one is broken: watch what becomes of them, of the
workers that met them, and of the thirteen others.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass

from penstock import Context, Job, ThreadPool, current_context, graceful

log = logging.getLogger("orders")


# Step 1. The job: an id, a payload, and a context that knows when the answer is no longer wanted.
#
# The id and the payload are yours: any function, any arguments. The context is made in step 3, when the job is
# handed over, and is found in step 2 with `current_context()`, so it doesn't have to travel through every signature.


@dataclass(frozen=True)
class Order:
    """What a customer wants packed."""

    id: int
    items: tuple[str, ...]
    seconds: float = 0.4  # what packing it takes


ORDERS = [Order(id, ("lamp", "bulb")) for id in range(1, 16)]
ORDERS[1] = Order(2, ("anvil",), seconds=3600)  # never done: it runs into its time limit
ORDERS[4] = Order(5, ())  # broken: there is nothing to pack


# Step 2. The worker: a plain function, which also works when you call it yourself.
#
# There is no `try`, no `finally` and no counting here. Whatever happens in this function, the pool marks the job as
# ended, wakes those who wait for it, logs and counts the failure, and the same worker takes the next job.


def pack(order: Order) -> str:
    log.info("started job %d", order.id)
    if not order.items:
        raise ValueError("an order without items")

    # This stands for your real work. It sleeps, but wakes up as soon as the job's time is over or somebody cancels
    # it. Between the steps of a long calculation, say `current_context().check()` to the same effect.
    current_context().sleep(order.seconds)

    return f"packed {' and '.join(order.items)}"


def answer(job: Job[str]) -> str:
    """What the order's customer is told: a job that was accepted always has a result or an error."""
    try:
        return job.result()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main() -> int:
    logging.basicConfig(
        level=logging.INFO,
        format="%(relativeCreated)5.0f ms  %(threadName)-15s  %(message)s",
        stream=sys.stdout,
    )

    # Step 3. The dispatcher: the workers and the line in front of them.
    #
    # At most 100 jobs wait. With the hundredth in line, `submit` blocks until a worker takes one, so a fast producer
    # runs at the pace of its workers instead of filling the memory.
    pool = ThreadPool(3, "worker", backlog=100, timeout=1.5, name="orders")
    jobs: list[Job[str]] = []

    # Step 5 starts here: from now on SIGTERM and Ctrl-C mean "stop within 10 seconds", not "drop everything".
    # No new jobs; the accepted ones may finish; what is still running late is asked to stop; and if something
    # doesn't listen even then, it is left behind and the report says where it stands.
    with graceful(pool, timeout=10) as shutdown:
        # Workers start before the traffic does: if they can't, we want to know now and not with the first order.
        pool.start()
        log.info("3 workers are ready")

        for order in ORDERS:
            # Two limits. `timeout=1.5` above is how long one order may be worked on; the context is how long the
            # customer is willing to wait for it, waiting in line included.
            wanted = Context(timeout=60)
            jobs.append(pool.options(id=order.id, context=wanted).submit(pack, order))
        log.info("%d orders accepted", len(jobs))

        # Step 4. Graceful shutdown: close the door, then wait for those inside, but not for ever. The pool logs its
        # report, in which the accounts balance: so many accepted, and each of them done, failed or otherwise ended.
        pool.close()
        pool.wait(timeout=10)

    # What became of every order that we accepted. (We can keep fifteen of them. A service that runs for months
    # keeps none and looks at `pool.stats()`, `pool.failures` and the log.)
    for job in jobs:
        log.info("job %s %s: %s", job.id, job.state, answer(job))

    log.info("failures, the most frequent first:\n%s", pool.failures)
    log.info("Shutdown complete" if pool.report.ok else "Shutdown cut jobs off: see the report above")
    return shutdown.exit_code  # 0; 1 if jobs were cut off; 128 + the signal's number if one stopped us


if __name__ == "__main__":
    sys.exit(main())
