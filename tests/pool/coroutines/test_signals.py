"""`graceful` and `lifespan` with pools of coroutines, and the end of a process that has some."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from penstock import AsyncPool, JobState, PoolClosed, ThreadPool, graceful, lifespan
from tests.gates import GUARD, slack
from tests.pool.coroutines import looping
from tests.pool.coroutines.looping import Door, double, looped, new_loop, until
from tests.pool.script import SLACK, running

PREAMBLE = """
import asyncio

LOOP = {kind!r}

def run(main):
    if LOOP == "uvloop":
        import uvloop as kind
    else:
        kind = asyncio
    with asyncio.Runner(loop_factory=kind.new_event_loop) as runner:
        return runner.run(main)

async def told(*args):
    return await asyncio.to_thread(until_told)

async def stays():
    say("resting")
    try:
        await asyncio.sleep(60)
    except BaseException as error:
        say(f"woken by {{type(error).__name__}}: {{current_context().reason}}")
        raise

async def speak(text):
    say(text)
"""

END = """
print(*(str(report).split("; ")[1] for report in shutdown.reports), sep="\\n", flush=True)
sys.exit(shutdown.exit_code)
"""


def script(folder: Path, *code: str) -> Any:
    return running(folder, PREAMBLE.format(kind=looping.kind), *code)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("outside", [True, False])
def test_the_first_signal_drains(tmp_path: Path, number: signal.Signals, outside: bool) -> None:
    around = "with graceful(pool) as shutdown:\n            run(main())"
    within = "run(main_within())"
    code = f"""
        pool = AsyncPool(1)

        async def main():
            async with pool:
                await pool.asubmit(told)
                await pool.asubmit(speak, "the one that waited")
                say("ready")
                assert await shutdown.arequested(60)
                try:
                    await pool.asubmit(speak, "never")
                except PoolClosed as error:
                    say(str(error).split(", ")[1])

        async def main_within():
            global shutdown
            async with graceful(pool) as shutdown:
                await main()

        {around if outside else within}
        assert shutdown.signal is not None and not shutdown.reports[0].cut
        """
    with script(tmp_path, code, END) as process:
        process.expect("ready")
        process.signal(number)
        process.expect(f"{number.name} came")
        process.go()
        process.expect("the one that waited", "2 accepted: 2 done")
        assert process.end(within=SLACK) == 128 + number
        assert process.errors == ""


def test_the_second_signal_cancels(tmp_path: Path) -> None:
    code = """
        async def main():
            global shutdown
            threads, pool = ThreadPool(1), AsyncPool(1)
            async with graceful(pool, threads, timeout=60) as shutdown:
                await pool.asubmit(stays)
                await pool.asubmit(speak, "never")
                say("submitted")
                assert await shutdown.arequested()
                say("draining")

        run(main())
        """
    with script(tmp_path, code, END) as process:
        process.expect_in_any_order("resting", "submitted")
        process.signal(signal.SIGTERM)
        process.expect("draining")
        process.signal(signal.SIGTERM)
        process.expect("woken by CancelledError: the pool is stopping", "2 accepted: 0 done, 2 cancelled")
        process.expect("0 accepted: 0 done")
        assert process.end(within=SLACK) == 128 + signal.SIGTERM


@pytest.mark.parametrize("how", ["holds up the loop", "swallows cancellation"])
def test_a_hung_job_costs_the_time_of_the_stop_and_no_more(tmp_path: Path, how: str) -> None:
    timeout = 1.0
    code = f"""
        gate = threading.Event()

        async def hangs():
            say("hung")
            if {how == "holds up the loop"}:
                gate.wait(20)
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    pass

        async def main():
            pool = AsyncPool(1, name="stuck pool")
            global shutdown
            async with graceful(pool, timeout={timeout}) as shutdown:
                await pool.asubmit(speak, "first")
                await asyncio.sleep(0)
                asyncio.get_running_loop().call_later(0, lambda: None)
                task = asyncio.create_task(pool.asubmit(hangs))
                threading.Timer({timeout} + 1, gate.set).start() if {how == "holds up the loop"} else None
                await shutdown.arequested()

        run(main())
        """
    with script(tmp_path, code, END) as process:
        process.expect("first", "hung")
        begun = time.monotonic()
        process.signal(signal.SIGTERM)
        process.expect("2 accepted: 1 done, 1 abandoned")
        assert process.end() == 128 + signal.SIGTERM
        assert timeout <= time.monotonic() - begun < slack(timeout + 2 * SLACK + 1)
        assert "pool 'stuck pool' stopped in " in process.errors
        assert "in hangs" in process.errors


def test_the_third_signal_ends_the_process_whatever_holds_up_its_loop(tmp_path: Path) -> None:
    code = """
        async def hangs():
            say("hung")
            try:
                await asyncio.sleep(60)
            finally:
                say("asked to stop")
                threading.Event().wait()

        async def main():
            pool = AsyncPool(1)
            async with graceful(pool, timeout=60) as shutdown:
                await pool.asubmit(hangs)
                await shutdown.arequested()
                say("draining")

        run(main())
        """
    with script(tmp_path, code) as process:
        process.expect("hung")
        process.signal(signal.SIGTERM)
        process.expect("draining")
        process.signal(signal.SIGTERM)
        process.expect("asked to stop")
        process.signal(signal.SIGTERM)
        assert process.end(within=GUARD) == 128 + signal.SIGTERM


def test_a_process_that_forgot_its_pool_ends_at_once(tmp_path: Path) -> None:
    code = """
        pool = AsyncPool(1, grace=3600)

        async def main():
            await pool.asubmit(stays)
            await pool.asubmit(speak, "never")

        run(main())
        say("the last line")
        """
    with script(tmp_path, code) as process:
        process.expect("resting", "woken by CancelledError: None", "never", "the last line")
        assert process.end(within=SLACK) == 0


def test_leaving_graceful_on_the_loop_needs_async_with() -> None:
    async def main() -> None:
        pool = AsyncPool(1)
        door = Door()
        with pytest.raises(RuntimeError, match="async with"):
            with graceful(pool):
                await pool.asubmit(door)
        with pytest.raises(PoolClosed):
            await pool.asubmit(double, 1)
        door.open()
        assert (await pool.wait()).ok

        handler = signal.getsignal(signal.SIGINT)
        async with graceful(AsyncPool(1)) as shutdown:
            async with AsyncPool(1) as other:
                assert await other.run(double, 1) == 2
        assert (shutdown.exit_code, signal.getsignal(signal.SIGINT)) == (0, handler)
        assert not await shutdown.arequested(0.01)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@looped
async def test_a_cancelled_graceful_block_stops_its_pools() -> None:
    door = Door()
    pool = AsyncPool(1)
    entered = asyncio.Event()

    async def serve() -> None:
        async with graceful(pool, timeout=0.9):
            await pool.asubmit(door)
            entered.set()
            await asyncio.sleep(GUARD)

    task = asyncio.create_task(serve())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (pool.report.cancelled, pool.report.closed) == (1, True)


@looped
async def test_a_graceful_block_whose_end_is_cancelled_stops_its_pools() -> None:
    door = Door()
    pool = AsyncPool(1)

    async def serve() -> None:
        async with graceful(pool, timeout=0.9):
            await pool.asubmit(door)

    task = asyncio.create_task(serve())
    await until(lambda: pool.report.closing)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (pool.report.cancelled, pool.report.closed) == (1, True)


@looped
async def test_lifespan_starts_and_stops_pools_of_both_kinds() -> None:
    threads, pool = ThreadPool(1), AsyncPool(1)
    door = Door()
    async with lifespan(pool, threads, timeout=GUARD)(None):
        assert pool._crew.home.loop is asyncio.get_running_loop()
        assert threads.stats().workers == 1
        job = await pool.asubmit(door, "answer")
        asyncio.get_running_loop().call_soon(door.open)
    assert job.result() == "answer"
    assert pool.report.ok
    assert threads.report.ok


@looped
async def test_lifespan_cancels_what_does_not_end() -> None:
    pool = AsyncPool(1)
    async with lifespan(pool, timeout=0.9)(None):
        job = await pool.asubmit(Door())
    assert job.state is JobState.CANCELLED


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_child_has_a_closed_pool(tmp_path: Path) -> None:
    code = """
        async def main():
            async with AsyncPool(1) as pool:
                await pool.asubmit(told)
                if not os.fork():
                    report = pool.report
                    say(f"in the child: {report.closed} {report.running}")
                    os._exit(0)
                os.wait()
                until_told()
            say(str(pool.report).split("; ")[1])

        run(main())
        """
    with script(tmp_path, code) as process:
        process.expect("in the child: True 0")
        process.go(2)
        process.expect("1 accepted: 1 done")
        assert process.end(within=GUARD) == 0
