"""What Python makes fast while it runs, if it is written so: nothing else would show that it isn't any more."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.pool.script import running

UNTOUCHED = """
    import dis
    from penstock.pool.worker import Worker

    with ThreadPool(1) as pool:
        for _ in range(100):
            pool.submit(int)
    loop = dis.get_instructions(Worker._work_until_told_to_leave, adaptive=True)
    say(sum(step.opname == "LOAD_ATTR" for step in loop))
"""


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="newer ones look at every function from its first step on")
def test_the_loop_of_a_pools_only_worker_is_made_fast(tmp_path: Path) -> None:
    with running(tmp_path, UNTOUCHED) as script:
        script.expect("0")
