"""A process that enqueues jobs, writes down each that was acknowledged, and may be killed at any time.

    python enqueuer.py NAME COUNT

It goes on behind the last one that it wrote down. The one after it may be in the store already: if it has an id of its
own, it is no second job. The same holds when the store can't be reached for a while.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

from penstock.errors import EnqueuedInPart, StoreError


def duty() -> Any:
    spec = importlib.util.spec_from_file_location("duty", Path(__file__).with_name("duty.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(name: str, count: int) -> None:
    tasks = duty()
    acked = tasks.marks.with_name(f"acked-{name}")
    done = len(acked.read_text().split()) if acked.exists() else 0
    with acked.open("ab", buffering=0) as file:
        number = done
        while number < count:
            try:
                if number % 7 == 0 and number + 50 <= count:
                    ids = [handle.id for handle in tasks.tick.enqueue_many([(n,) for n in range(50)])]
                else:
                    ids = [tasks.tick.options(id=f"{name}-{number}").enqueue(number).id]
            except (StoreError, EnqueuedInPart):
                time.sleep(0.05)  # nothing tells when the store is there again
                continue
            file.write("".join(f"{id}\n" for id in ids).encode())
            number += len(ids)
    tasks.app.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
