"""Random trees of contexts against a simple model.

The model: a node trips when it is cancelled, when its deadline comes, or when a node above trips. What is tripped stays
so, with its first cause. A closed node can't be cancelled by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from penstock import Context
from penstock.context import Cause
from tests.fake_time import FakeTime


@dataclass(eq=False)
class Listening:
    """Somebody who listens, and how often he was told."""

    told: int = 0
    expected: int = 0
    is_left: bool = True  # neither told nor undone
    undo: Callable[[], None] | None = None

    def __call__(self, *_: object) -> None:
        self.told += 1


@dataclass(eq=False)
class Node:
    """What the model knows of one context."""

    context: Context
    parent: Node | None
    deadline: float
    closed: bool = False
    tripped: bool = False
    born_tripped: bool = False  # by the nearest of those above, or the highest: either will do
    cancelled_by: Node | None = None  # None: its deadline, or one above
    first_seen: Cause | None = None
    listening: list[Listening] = field(default_factory=list)
    job: Listening | None = None


class ContextMachine(RuleBasedStateMachine):
    """Whatever the order of events: the tree says what the model says, tells each once, and keeps nobody in vain."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.time = FakeTime(self.patch)
        self.nodes: list[Node] = []

    def teardown(self) -> None:
        self.patch.undo()

    # What happens

    @initialize(timeout=st.none() | st.integers(1, 20))
    def plant(self, timeout: int | None) -> None:
        self.grow(None, timeout)

    @rule(data=st.data(), timeout=st.none() | st.integers(0, 20))
    def branch(self, data: st.DataObject, timeout: int | None) -> None:
        self.grow(self.any_of(data), timeout)

    @rule(data=st.data())
    def next_job_of_a_chain(self, data: st.DataObject) -> None:
        """The job of a context submits the next one, and ends."""
        before = self.any_of(data)
        after = self.grow(before, None)
        self.listen_for_job_of(after)
        self.close_one(before)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        node = self.any_of(data)
        can_be = not (node.tripped or node.closed)

        if can_be:
            self.trip(node, cancelled_by=node)

        assert node.context.cancel(f"by {self.nodes.index(node)}") == can_be

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        self.close_one(self.any_of(data))

    @rule(seconds=st.integers(1, 8))
    def time_passes(self, seconds: int) -> None:
        for node in self.nodes:
            if node.deadline <= self.time.now + seconds:
                self.trip(node, cancelled_by=None)
        self.time.advance(seconds)

    @rule(data=st.data())
    def listen(self, data: st.DataObject) -> None:
        node, listening = self.any_of(data), Listening()
        self.expect(node, listening)
        listening.undo = node.context.on_cancel(listening)

    @rule(data=st.data())
    def listen_for_job(self, data: st.DataObject) -> None:
        self.listen_for_job_of(self.any_of(data))

    @precondition(lambda self: any(node.listening for node in self.nodes))
    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        everybody = [(node, one) for node in self.nodes for one in node.listening if one.undo is not None]
        if everybody:
            _, listening = data.draw(st.sampled_from(everybody))
            listening.is_left = False
            assert listening.undo is not None
            listening.undo()

    # What must hold

    @invariant()
    def what_is_tripped_stays_tripped_with_its_first_cause(self) -> None:
        for node in self.nodes:
            cause = node.context.cause
            assert (cause is not None) == node.tripped == node.context.cancelled
            if cause is None:
                continue
            first = node.first_seen = node.first_seen or cause
            assert cause == first, "it tripped for another reason before"
            assert cause.source in [above.context for above in self.upwards(node)]
            if not node.born_tripped:
                assert cause.by_deadline == (node.cancelled_by is None)
                assert node.cancelled_by is None or cause.source is node.cancelled_by.context

    @invariant()
    def no_deadline_is_later_than_the_parents(self) -> None:
        for node in self.nodes:
            deadline = math.inf if node.context.deadline is None else node.context.deadline
            assert deadline == node.deadline
            assert node.parent is None or deadline <= node.parent.deadline

    @invariant()
    def everybody_was_told_once_if_and_only_if_his_context_tripped(self) -> None:
        for node in self.nodes:
            for listening in node.listening:
                assert listening.told == listening.expected
                assert not (node.tripped and listening.is_left)

    @invariant()
    def an_open_context_is_listened_to_if_and_only_if_somebody_listens_there_or_below(self) -> None:
        for node in self.nodes:
            somebody = any(one.is_left for below in self.downwards(node) for one in below.listening)
            if node.closed:
                assert somebody or not node.context.is_listened_to
            else:
                assert node.context.is_listened_to == somebody

    @invariant()
    def timers_run_only_for_those_who_listen(self) -> None:
        waited_for = {n.deadline for n in self.nodes for one in n.listening if one.is_left and n.deadline < math.inf}
        assert {timer.when for timer in self.time.to_come} == waited_for

    # How

    def any_of(self, data: st.DataObject) -> Node:
        return data.draw(st.sampled_from(self.nodes))

    def grow(self, parent: Node | None, timeout: int | None) -> Node:
        context = Context(timeout, parent=None if parent is None else parent.context)
        own = math.inf if timeout is None else self.time.now + timeout
        node = Node(context, parent, own if parent is None else min(own, parent.deadline))
        if node.deadline <= self.time.now or (parent is not None and parent.tripped):
            node.tripped = node.born_tripped = True
        self.nodes.append(node)
        return node

    def listen_for_job_of(self, node: Node) -> None:
        if node.job is None and not node.closed:
            node.job = Listening()
            self.expect(node, node.job)
            node.context.listen_for_job(node.job)

    def close_one(self, node: Node) -> None:
        node.closed = True
        for listening in node.listening:
            listening.is_left = False
        node.context.close()

    def expect(self, node: Node, listening: Listening) -> None:
        node.listening.append(listening)
        if node.closed:
            listening.is_left = False
        if node.tripped:
            listening.expected, listening.is_left = 1, False

    def trip(self, node: Node, cancelled_by: Node | None) -> None:
        for below in self.downwards(node):
            if not below.tripped:
                below.tripped, below.cancelled_by = True, cancelled_by
                for listening in below.listening:
                    if listening.is_left:
                        listening.expected, listening.is_left = 1, False

    def upwards(self, node: Node | None) -> list[Node]:
        found = []
        while node is not None:
            found.append(node)
            node = node.parent
        return found

    def downwards(self, top: Node) -> list[Node]:
        return [node for node in self.nodes if top in self.upwards(node)]


ContextMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=25)
TestContexts = ContextMachine.TestCase
