"""Large buffers: what goes in comes out, in its own type, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import ProcessPool
from penstock.pool.processes import memory
from penstock.pool.processes.memory import BIG, Memory, box, dumps, loads
from tests.gates import GUARD

PROTOCOL = pickle.HIGHEST_PROTOCOL


def descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def there_and_back(value: Any) -> Any:
    packed, held = dumps(box(value), PROTOCOL)
    return loads(packed, None if held is None else os.dup(held.fd))


def same(value: Any) -> Any:
    return value


def add_one(array: Any) -> Any:
    array += 1
    return array


sizes = st.sampled_from([0, 1, BIG - 1, BIG, BIG + 1])
plain = st.builds(bytes, sizes) | st.builds(bytearray, sizes) | st.integers() | st.text(max_size=5)
values = plain | st.lists(plain, max_size=3) | st.tuples(plain, plain) | st.dictionaries(st.text(max_size=2), plain)


@settings(max_examples=50)
@given(values)
def test_every_value_comes_out_as_it_went_in(value: Any) -> None:
    came = there_and_back(value)

    assert came == value
    assert type(came) is type(value)


@pytest.mark.parametrize("value", [bytes(BIG), bytearray(BIG), numpy.arange(BIG)], ids=["bytes", "bytearray", "numpy"])
def test_a_large_buffer_does_not_go_with_the_rest(value: Any) -> None:
    packed, held = dumps(box(value), PROTOCOL)

    assert held is not None
    assert len(packed) < 1_000


def test_a_small_buffer_goes_with_the_rest() -> None:
    packed, held = dumps(box(bytes(BIG - 1)), PROTOCOL)

    assert held is None
    assert len(packed) > BIG - 1


def test_several_buffers_keep_their_order_and_their_content() -> None:
    value = [bytes([n]) * (BIG + n) for n in range(5)]

    assert there_and_back(value) == value


def test_an_array_can_be_written_to_over_there_and_stays_as_it_was_here() -> None:
    array = numpy.zeros(BIG)

    came = there_and_back(array)
    came += 1

    assert came.sum() == BIG
    assert array.sum() == 0


def test_memory_whose_payload_was_copied_is_used_again_and_shows_nothing_of_the_first() -> None:
    _, held = dumps(box(b"a" * (2 * BIG)), PROTOCOL)
    assert held is not None
    fd = held.fd
    held.use_again()
    held.use_again()

    second, again = dumps(box(b"b" * BIG), PROTOCOL)

    assert again is not None
    assert again.fd == fd
    assert loads(second, os.dup(again.fd)) == b"b" * BIG


def test_memory_that_may_be_mapped_over_there_is_not_used_again() -> None:
    packed, held = dumps(numpy.zeros(BIG), PROTOCOL)
    assert held is not None
    array = loads(packed, os.dup(held.fd))
    held.use_again()

    others = [dumps(box(b"x" * (8 * BIG)), PROTOCOL) for _ in range(3)]

    assert array.sum() == 0
    assert all(memory is not None for _, memory in others)


def test_the_shelf_keeps_no_more_than_it_may() -> None:
    shelf = memory.Shelf(2 * BIG)
    before = descriptors()
    held = [Memory([pickle.PickleBuffer(bytes(BIG))], shelf) for _ in range(5)]
    for one in held:
        one.use_again()

    assert len(shelf._files) == 2
    assert descriptors() <= before + 2
    assert shelf.in_use == 0
    for _, fd in shelf._files:
        os.close(fd)


def test_nothing_is_held_once_it_is_forgotten() -> None:
    there_and_back(bytes(BIG))
    before = descriptors()
    for _ in range(20):
        there_and_back(numpy.zeros(BIG))

    assert descriptors() <= before
    assert memory.OURS.in_use == 0


def test_where_no_more_files_may_wait_buffers_go_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_MOST_AT_ONCE", 1)
    first = dumps(box(bytes(BIG)), PROTOCOL)
    second = dumps(box(bytes(BIG)), PROTOCOL)

    assert first[1] is not None
    assert second[1] is None
    assert loads(second[0], None) == bytes(BIG)


def test_where_the_system_gives_no_memory_buffers_go_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(name: str) -> int:
        raise OSError("no more descriptors")

    monkeypatch.setattr(os, "memfd_create", none_left)
    packed, held = dumps(box(bytearray(BIG)), PROTOCOL)

    assert held is None
    assert loads(packed, None) == bytearray(BIG)


def test_memory_that_is_shorter_than_it_said_is_an_error_and_closed() -> None:
    packed, held = dumps(box(bytearray(BIG)), PROTOCOL)
    assert isinstance(held, Memory)
    os.ftruncate(held.fd, 10)
    given = os.dup(held.fd)

    with pytest.raises(EOFError, match="shorter"):
        loads(packed, given)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(given)


@pytest.mark.parametrize("size", [BIG, 5_000_000])
def test_large_arguments_and_results_cross(size: int) -> None:
    data = os.urandom(size)
    with ProcessPool(2) as pool:
        jobs = [pool.submit(same, value) for value in (data, bytearray(data), (data, data), {"a": data})]
        assert [job.result(GUARD) for job in jobs] == [data, bytearray(data), (data, data), {"a": data}]
        array = numpy.frombuffer(data[: size - size % 8], dtype="u8")
        assert (pool.submit(add_one, array.copy()).result(GUARD) == array + 1).all()


def test_what_the_caller_changes_after_the_call_does_not_reach_the_job() -> None:
    data = bytearray(BIG)
    with ProcessPool(1) as pool:
        job = pool.submit(same, data)
        data[:] = b"x" * BIG
        assert job.result(GUARD) == bytearray(BIG)


def test_a_pool_holds_no_memory_of_jobs_that_have_ended() -> None:
    with ProcessPool(1) as pool:
        pool.submit(same, bytes(BIG)).result(GUARD)
        before = descriptors()
        for n in range(30):
            assert pool.submit(same, bytes([n]) * (BIG + n)).result(GUARD) == bytes([n]) * (BIG + n)
        assert descriptors() <= before
        assert memory.OURS.in_use == 0
