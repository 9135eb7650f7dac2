"""Who has the job: a worker that begins it, or the parent that takes it back. Never both, whatever the order of steps.

The real code of `Page` on a small machine, through every order of its steps: each core has a store buffer, as x86 has,
so that what a core has written is seen by the other one later, but for a fence. And once more on this machine.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.pool.processes.page import IS_SAFE, SLOTS, Page
from tests.gates import GUARD, in_thread

pytestmark = pytest.mark.skipif(not IS_SAFE, reason="nothing is sent ahead on this machine")

Place = tuple[str, int]


class Machine:
    """Two cores that run real code, one step at a time, in an order that is chosen from outside."""

    def __init__(self, memory: dict[Place, int], choices: list[int]) -> None:
        self.memory = memory
        self._choices = choices  # which of the possible steps to take, from the first on; then always the first
        self.options: list[int] = []  # how many there were at each point
        self._moved = threading.Condition()
        self._asking: dict[str, threading.Event] = {}  # cores that wait for leave to take a step; guarded by _moved
        self._alive: set[str] = set()
        self._buffers: dict[str, list[tuple[Place, int]]] = {}
        self._cores: dict[int, str] = {}

    def run(self, programs: dict[str, Callable[[], Any]]) -> dict[str, Any]:
        self._buffers = {core: [] for core in programs}
        self._alive = set(programs)
        running = {core: in_thread(self._run_core, core, program) for core, program in programs.items()}
        while True:
            with self._moved:
                arrived = self._moved.wait_for(lambda: set(self._asking) >= self._alive, GUARD)
                assert arrived, f"only {self._asking} of {self._alive} came"
                cores = sorted(self._asking)
                flushes = [core for core, buffer in self._buffers.items() if buffer]
                if not cores and not flushes:
                    break
                chosen = self._choose(len(cores) + len(flushes))
                if chosen < len(cores):
                    self._asking.pop(cores[chosen]).set()
                else:
                    place, value = self._buffers[flushes[chosen - len(cores)]].pop(0)
                    self.memory[place] = value
        return {core: future.result(GUARD) for core, future in running.items()}

    def _choose(self, count: int) -> int:
        step = len(self.options)
        self.options.append(count)
        return self._choices[step] if step < len(self._choices) else 0

    def _run_core(self, core: str, program: Callable[[], Any]) -> Any:
        self._cores[threading.get_ident()] = core
        try:
            return program()
        finally:
            with self._moved:
                self._alive.discard(core)
                self._moved.notify_all()

    def _step(self) -> str:
        """Wait for leave to take one step."""
        core, leave = self._cores[threading.get_ident()], threading.Event()
        with self._moved:
            self._asking[core] = leave
            self._moved.notify_all()
        assert leave.wait(GUARD)
        return core

    def store(self, place: Place, value: int) -> None:
        self._buffers[self._step()].append((place, value))

    def load(self, place: Place) -> int:
        core = self._step()
        own = [value for at, value in self._buffers[core] if at == place]
        return own[-1] if own else self.memory.get(place, 0)

    def fence(self) -> None:
        for place, value in self._buffers[core := self._step()]:
            self.memory[place] = value
        self._buffers[core].clear()


class Words:
    """One of the page's fields, on the machine."""

    def __init__(self, machine: Machine, name: str) -> None:
        self._machine, self._name = machine, name

    def __setitem__(self, at: int | slice, value: Any) -> None:
        if isinstance(at, slice):
            for place, one in zip(range(SLOTS)[at], value, strict=True):
                self._machine.store((self._name, place), one)
        else:
            self._machine.store((self._name, at), value)

    def __getitem__(self, at: int) -> int:
        return self._machine.load((self._name, at))


class Fence:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def __enter__(self) -> None:
        self._machine.fence()

    def __exit__(self, *args: object) -> None: ...


def page_on(machine: Machine) -> Page:
    page = Page.__new__(Page)
    page._begun = Words(machine, "begun")  # type: ignore[assignment]
    page._skips = Words(machine, "skips")  # type: ignore[assignment]
    page._fence = Fence(machine)  # type: ignore[assignment]
    return page


def every_order(programs: dict[str, Callable[[Page], Any]], **memory: int) -> Iterator[tuple[dict[str, Any], Machine]]:
    """What each program came to, in every order in which their steps may be taken."""
    choices: list[int] | None = []
    while choices is not None:
        machine = Machine({(name, 0): value for name, value in memory.items()}, choices)
        page = page_on(machine)
        yield machine.run({core: functools.partial(program, page) for core, program in programs.items()}), machine
        taken = [*choices, *([0] * (len(machine.options) - len(choices)))]
        while taken and taken[-1] + 1 == machine.options[len(taken) - 1]:
            taken.pop()
        choices = [*taken[:-1], taken[-1] + 1] if taken else None


def test_a_job_is_never_both_the_workers_and_the_parents() -> None:
    seen = set()
    for came_to, _ in every_order({"worker": lambda page: page.begin(7), "parent": lambda page: page.take_back(7)}):
        assert not (came_to["worker"] and came_to["parent"]), "it runs, and was taken back"
        seen.add((came_to["worker"], came_to["parent"]))
    # Neither: the worker doesn't run it and says so, the parent takes it for running until it hears that.
    assert seen == {(True, False), (False, True), (False, False)}


def test_a_parent_that_comes_too_late_leaves_no_mark_for_the_job_that_has_the_slot_next() -> None:
    programs: dict[str, Callable[[Page], Any]]
    programs = {"worker": lambda page: page.begin(7), "parent": lambda page: page.take_back(7)}
    for came_to, machine in every_order(programs):
        if came_to["worker"]:
            assert machine.memory["skips", 7] == 0


def test_an_answer_and_a_look_that_comes_too_late_leave_no_mark_in_any_order() -> None:
    for first, count in ((7, 1), (6, 2)):
        for _, machine in every_order(
            {
                "dispatcher": functools.partial(Page.answered, first=first, count=count),
                "canceller": lambda page: page.take_back(7),
            },
            begun=7,
        ):
            assert machine.memory["skips", 7] == 0


def test_a_slot_is_free_again_once_its_job_was_spoken_of(page: Page) -> None:
    assert page.take_back(3)
    assert not page.begin(3)
    page.answered(3, 1)

    assert page.begin(3 + SLOTS)
    assert page.begun == 3 + SLOTS


@pytest.mark.parametrize(("first", "count"), [(1, 1), (1, 100), (SLOTS - 3, 3), (SLOTS - 3, 4), (3 * SLOTS - 3, 128)])
def test_the_slots_of_jobs_that_were_spoken_of_together_are_free_and_no_other(
    page: Page, first: int, count: int
) -> None:
    page._skips[:] = bytes([1]) * SLOTS
    page.answered(first, count)

    free = {seq % SLOTS for seq in range(first, first + count)}
    assert [slot for slot in range(SLOTS) if not page._skips[slot]] == sorted(free)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with (tmp_path / "page").open("w+b") as file:
        file.truncate(Page.SIZE)
        page = Page(file.fileno())
        yield page
        page.close()


ROUNDS = 20_000


def begin_each(path: str, ran: str) -> None:
    """In another process: begin job after job, as soon as it is there."""
    with Path(path).open("r+b") as file, Path(ran).open("r+b") as notes:
        page, here = Page(file.fileno()), Page(notes.fileno())
        for seq in range(1, ROUNDS + 1):
            while here._begun[0] < seq:  # spins: it is about moments
                pass
            here._skips[0] = 2 if page.begin(seq) else 1


def test_two_processes_that_race_for_each_of_many_jobs_never_both_have_it(tmp_path: Path) -> None:
    for name in ("page", "notes"):
        (tmp_path / name).write_bytes(bytes(Page.SIZE))
    paths = str(tmp_path / "page"), str(tmp_path / "notes")
    worker = multiprocessing.get_context("spawn").Process(target=begin_each, args=paths, daemon=True)
    worker.start()
    both = ours = 0
    with contextlib.ExitStack() as stack:
        page, notes = (Page(stack.enter_context(Path(path).open("r+b")).fileno()) for path in paths)
        for seq in range(1, ROUNDS + 1):
            notes._skips[0] = 0
            notes._begun[0] = seq  # it is sent
            for _ in range(seq % 23):
                pass
            taken = page.take_back(seq)
            while not notes._skips[0]:
                assert worker.exitcode is None
            both += taken and notes._skips[0] == 2
            ours += taken
            page.answered(seq, 1)
    worker.join(GUARD)
    assert both == 0
    assert 0 < ours < ROUNDS, f"it was no race: {ours} of {ROUNDS} were taken back"
