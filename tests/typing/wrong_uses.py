"""Mistakes that both type checkers must see. Read, never run.

An ignore stands on each line that must be an error; each checker is set to complain about an ignore that it did not
need. So a mistake that is no longer noticed fails the check.
"""

from __future__ import annotations

from penstock import AnyJob, App, Context, Handle, Job, ProcessPool, Report, Retry, ThreadPool


def label(number: int, suffix: str = "") -> str:
    return f"{number}{suffix}"


def half(number: int) -> float:
    return number / 2


def arguments_that_the_function_does_not_take(pool: ThreadPool) -> None:
    pool.submit(label, "one")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    pool.submit(label)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    pool.submit(label, 1, "st", 2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    pool.submit(label, 1, sufix="st")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    pool.submit(label, 1, suffix=2)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    pool.submit("label", 1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType, reportCallIssue]
    pool.submit(label(1))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType, reportCallIssue]


def the_same_for_processes(pool: ProcessPool) -> None:
    pool.submit(label, "one")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    ProcessPool(stuck_after=1)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


def the_same_through_a_view(pool: ThreadPool) -> None:
    soon = pool.options(timeout=2)
    soon.submit(label, "one")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    soon.submit(label)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


async def the_same_from_a_coroutine(pool: ThreadPool) -> None:
    await pool.run(label, "one")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await pool.asubmit(label, "one")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await pool.options(timeout=2).run(label, "one")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def items_that_the_function_does_not_take(pool: ThreadPool) -> None:
    pool.stream(half, ["one"])  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    pool.stream(half, 3)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def results_taken_for_something_else(pool: ThreadPool, job: Job[str]) -> None:
    _a: int = pool.submit(label, 1).result()  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    _b: Job[int] = job  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    _c: int = await job  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    _d: int = await pool.run(label, 1)  # type: ignore[arg-type] # pyright: ignore[reportAssignmentType]
    for found in pool.stream(half, [1]):
        _e: str = found.result()  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]


def settings_that_do_not_exist(pool: ThreadPool) -> None:
    ThreadPool("three")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    ThreadPool(3, backlok=10)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    ThreadPool(3, when_full="sometimes")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    ThreadPool(3, retry=3)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    pool.options(timout=2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    pool.options(2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    pool.shutdown(True, True)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    Context(values=3)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Retry()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


def values_that_do_not_change(report: Report, retry: Retry) -> None:
    report.done = 3  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]
    retry.attempts = 4  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]


app = App("memory://")


@app.task
def pack(order: int, gift: bool = False) -> str:
    """A task is still the function."""
    return f"order {order}{' as a gift' if gift else ''}"


@app.task(timeout=30)
async def fetch(url: str) -> bytes:
    return url.encode()


def arguments_that_the_task_does_not_take() -> None:
    pack("one")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    pack.enqueue("one")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    pack.enqueue()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    pack.enqueue(1, True, 2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    pack.enqueue(1, gitf=True)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    pack.options(delay=5).enqueue("one")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    fetch.enqueue(1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    pack.enqueue_many([1, 2])  # type: ignore[list-item] # pyright: ignore[reportArgumentType]


async def the_same_of_tasks_from_a_coroutine() -> None:
    await pack.aenqueue("one")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await pack.options(delay=5).aenqueue(1, 2)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def durable_results_taken_for_something_else(handle: Handle[str]) -> None:
    _a: int = pack.enqueue(1).result()  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    _b: Handle[int] = handle  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    _c: str = fetch("a")  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    _d: str = fetch.enqueue("a").result()  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    _e: AnyJob[int] = handle  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    _f: str = await fetch.aenqueue("a")  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]


def task_settings_that_do_not_exist() -> None:
    app.task(timout=3)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    app.task(retry=3)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
    pack.options(delay="soon")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    pack.options(dealy=3)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    App()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
