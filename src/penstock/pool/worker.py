"""A worker of a thread pool: one thread, and its life from the first job to the last."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from penstock.job import Job
from penstock.lifecycle import Phase
from penstock.pool.runner import ThreadRunner

if TYPE_CHECKING:
    from penstock.pool.threads import ThreadCrew


class Worker(ThreadRunner):
    """A worker of *crew*. Fields are its own thread's, if nothing else is said."""

    __slots__ = ("_staff", "lock", "waits")

    def __init__(self, crew: ThreadCrew, name: str) -> None:
        super().__init__(crew, name)
        self._staff = crew.staff
        self.lock = threading.Lock()  # held, but for the moment of a wake: the worker sleeps on it
        self.lock.acquire()
        self.waits: dict[object, Job[Any] | None] = {}  # what it waits for, None: for a place; guarded by Staff._lock

    def work(self) -> None:
        """The thread's whole life."""
        staff = self._staff
        if staff.enter(self):
            self._work_until_told_to_leave()
        staff.left(self)

    def _work_until_told_to_leave(self) -> None:
        staff, backlog = self._staff, self._crew.backlog
        queue, due, places = backlog.queue, backlog.due, backlog.places
        # No condition in the `while`: Python 3.11 makes a function fast once it was called, or has jumped back without
        # one, eight times, and this one is called once for each thread.
        while True:
            if staff.alive > staff.capacity and staff.may_leave(self):
                return
            try:
                if due:
                    job = due.popleft()
                else:
                    job = queue.popleft()
                    # Places.give, written out for the common case that nobody waits.
                    if places.waiting:
                        places.give()
                    else:
                        places.free.append(None)
                        if places.waiting and places.take():
                            places.give()
            except IndexError:
                if not self._park():
                    return
            else:
                self.run(job)
                del job  # keep nothing while waiting for the next one
                if self.waits:
                    staff.end_all_waits(self)

    def _park(self) -> bool:
        """Sleep until there may be work; False when the pool is closed and none is left."""
        staff, backlog, lifecycle = self._staff, self._crew.backlog, self._crew.lifecycle
        staff.idle.append(self)
        if backlog.queue or backlog.due or lifecycle.phase is Phase.CLOSED:
            try:
                staff.idle.remove(self)
            except ValueError:
                pass  # somebody has taken us off the stack to wake us: the wake comes, or is there
            else:
                return bool(backlog.queue or backlog.due) or lifecycle.phase is not Phase.CLOSED
        self.lock.acquire()
        staff.waking = False
        if staff.idle and len(backlog.queue) + len(backlog.due) > 1 and not backlog.places.next_one_submits():
            staff.wake_one()
        return bool(backlog.queue or backlog.due) or lifecycle.phase is not Phase.CLOSED

    def replace(self) -> bool:
        """Give its slot to a fresh thread; False if as many as may be are replaced already."""
        return self._lifecycle.phase is not Phase.CLOSED and self._staff.replace_stuck()

    def came_back_late(self) -> None:
        """There is one thread too many now."""
        self._staff.stuck_came_back()

    def fate(self, replaced: bool) -> str:
        """What becomes of its thread."""
        if replaced:
            return "its thread is replaced by a fresh one"
        why = "the pool has stopped" if self._lifecycle.phase is Phase.CLOSED else "max_stuck"
        return f"its thread is not replaced ({why})"
