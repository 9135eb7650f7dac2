"""Which of the jobs that were sent ahead has begun: one page of memory that a worker and its parent share.

    worker                                   parent, to take job n back
    begun = n          (1)                   skip[n] = 1        (3)
    full fence                               full fence
    skip[n]?  yes: don't run it   (2)        begun >= n?  yes: too late, it runs   (4)
                                                          no:  it is ours, and will never run there

Each side writes its word before it reads the other's (Dekker's way), so at least one of them sees the other: if the
parent finds at (4) that the job has not begun, its mark (3) was there before the worker's look (2). If both see each
other, the worker does not run the job and says so, and the parent takes it for running until it hears that.

The fence is a lock that is taken and released: an instruction with a `lock` prefix on x86, which no load or store
passes. Elsewhere that is not certain, and nothing is sent ahead. A word is written by one aligned store of eight bytes.
"""

from __future__ import annotations

import mmap
import os
import platform
import threading
from typing import Final

SLOTS: Final = 256  # more than may ever be under way to one worker
LENT: Final = 32  # results in memory that may be on their way at once
IS_SAFE: Final = platform.machine().lower() in ("x86_64", "amd64") and os.name == "posix"


class Page:
    """The page of one worker; `fd` is a file of at least `SIZE` bytes that both map."""

    SIZE: Final = 4096

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, self.SIZE)
        view = memoryview(self._map)
        self._begun = view[:8].cast("Q")
        self._skips = view[8 : 8 + SLOTS]
        self._lent = view[8 + SLOTS : 8 + SLOTS + LENT]
        self._fence = threading.Lock()

    # The worker's side

    def begin(self, seq: int) -> bool:
        """Job *seq* begins now; False if the parent has taken it back."""
        self._begun[0] = seq
        with self._fence:
            pass
        return not self._skips[seq & (SLOTS - 1)]

    def lend(self) -> int | None:
        """A number for memory with a result, until the parent has copied it; None if all are out."""
        for number in range(LENT):
            if not self._lent[number]:
                self._lent[number] = 1
                return number
        return None

    def is_lent(self, number: int) -> bool:
        """Whether the parent has not copied it yet."""
        return bool(self._lent[number])

    # The parent's side

    def copied(self, number: int) -> None:
        """The result in memory *number* was copied."""
        self._lent[number] = 0

    @property
    def begun(self) -> int:
        """The last job that the worker has begun; 0 for none."""
        return self._begun[0]

    def take_back(self, seq: int) -> bool:
        """Whether job *seq* is ours again; if not, it has begun. One thread at a time."""
        slot = seq & (SLOTS - 1)
        self._skips[slot] = 1
        with self._fence:
            pass
        if self._begun[0] < seq:
            return True
        # `answered` may have come before the mark, and will not come again: the next job has the slot.
        self._skips[slot] = 0
        return False

    def answered(self, first: int, count: int) -> None:
        """The worker has spoken of *count* jobs from *first* on: their slots are free for others."""
        slot = first & (SLOTS - 1)
        if count == 1:
            self._skips[slot] = 0
            return
        if slot + count > SLOTS:  # they go round the end
            self._skips[: slot + count - SLOTS] = bytes(slot + count - SLOTS)
            count = SLOTS - slot
        self._skips[slot : slot + count] = bytes(count)

    def close(self) -> None:
        """Give the memory back."""
        self._begun.release()
        self._skips.release()
        self._lent.release()
        self._map.close()
