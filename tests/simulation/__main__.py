"""`python -m tests.simulation SEED` plays one simulation again, and tells it step by step."""

from __future__ import annotations

import sys

from tests.simulation.play import play
from tests.simulation.truth import Wrong


def main(seed: int) -> int:
    trace: list[str] = []
    try:
        counts = play(seed, trace=trace)
    except Wrong as wrong:
        print("\n".join(trace))
        print(f"\nseed {seed}: {wrong}")
        return 1
    print("\n".join(trace))
    print(f"\nseed {seed}: all is well, {dict(counts)}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(int(sys.argv[1])))
