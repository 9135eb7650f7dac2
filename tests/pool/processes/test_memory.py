"""Large buffers: what goes in comes out, in its own type, and nothing is left behind."""

from __future__ import annotations

import gc
import mmap
import os
import pickle
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import ProcessPool
from penstock.pool.processes import memory
from penstock.pool.processes.memory import BIG, Maps, Memory, Part, Shelf, Told, box, dumps, loads
from penstock.pool.processes.wire import MEMORY, WITH_FD, Garbled, Lane
from tests.gates import GUARD

PROTOCOL = pickle.HIGHEST_PROTOCOL


def descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def there_and_back(value: Any) -> Any:
    packed, held = dumps(box(value), PROTOCOL)
    return loads(packed, None if held is None else Part(os.dup(held.fd), to_stay=False))


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
    assert loads(second, Maps().of(second, 0, os.dup(again.fd))) == b"b" * BIG


def test_memory_that_may_be_mapped_over_there_is_not_used_again() -> None:
    packed, held = dumps(numpy.zeros(BIG), PROTOCOL)
    assert held is not None
    array = loads(packed, Maps().of(packed, 0, os.dup(held.fd)))
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
    for file in shelf._files:
        file.close()


# From its second use on a file stays mapped at both ends


def used(shelf: Shelf, *values: bytes | bytearray) -> Memory:
    """Memory with *values*, in a file that was used before with as much."""
    Memory([pickle.PickleBuffer(value) for value in values], shelf).use_again()
    return Memory([pickle.PickleBuffer(value) for value in values], shelf)


def unpacked(held: Memory, maps: Maps) -> list[Any]:
    """What is in *held*, as its receiver gets it."""
    packed = packed_with(held)
    came: list[Any] = loads(packed, maps.of(packed, 0, os.dup(held.fd)))
    return came


def packed_with(held: Memory) -> bytes:
    """The frame of a list of what is in *held*."""
    count = held.head[8]
    buffers = [pickle.PickleBuffer(value) for value in (b"first", bytearray(b"second"))][:count]
    return held.head + pickle.dumps(buffers, PROTOCOL, buffer_callback=lambda _: None)


def test_a_file_that_is_used_again_is_mapped_once_at_each_end(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, maps, told, made = Shelf(8 * BIG), Maps(), Told(), 0
    mapped = mmap.mmap

    def counted(*args: Any) -> mmap.mmap:
        nonlocal made
        made += 1
        return mapped(*args)

    monkeypatch.setattr(mmap, "mmap", counted)
    first = Memory([pickle.PickleBuffer(bytes(BIG))], shelf)
    assert (unpacked(first, maps), made) == ([bytes(BIG)], 0)
    first.use_again()
    for n in range(5):
        values = bytes([n]) * BIG, bytearray([n + 1]) * BIG
        held = Memory([pickle.PickleBuffer(value) for value in values[: 1 + n % 2]], shelf)
        packed, known = packed_with(held), held.part in told
        if held.part and not known:
            told.add(held.part)
        assert loads(packed, maps.of(packed, 0, None if known else os.dup(held.fd))) == list(values[: 1 + n % 2])
        held.use_again()

    assert made == 4, "once for one value, once for two, at each end"


def test_what_was_copied_out_stays_as_it_was_when_the_file_is_used_again() -> None:
    shelf, maps = Shelf(8 * BIG), Maps()
    held = used(shelf, b"a" * BIG, bytearray(b"b") * BIG)
    assert held.part
    came = unpacked(held, maps)
    held.use_again()
    again = Memory([pickle.PickleBuffer(b"c" * (2 * BIG))], shelf)

    assert again.part == held.part
    assert came == [b"a" * BIG, bytearray(b"b") * BIG]
    assert [type(value) for value in came] == [bytes, bytearray]


def test_a_part_that_could_be_cut_off_is_not_mapped_but_read() -> None:
    held = used(Shelf(8 * BIG), b"a" * BIG)
    with pytest.raises(PermissionError):
        os.ftruncate(held.fd, 0)

    file = os.memfd_create("of somebody else", os.MFD_ALLOW_SEALING)
    os.pwrite(file, b"b" * BIG, 0)
    theirs = Part(os.dup(file), to_stay=True)
    assert theirs._map is None
    os.ftruncate(file, BIG - 1)
    with pytest.raises(EOFError, match="shorter"):
        loads(packed_with(held), theirs)
    os.close(file)


def test_a_part_that_is_shorter_than_they_say_is_an_error() -> None:
    short = used(Shelf(8 * BIG), bytes(BIG))
    longer = Memory([pickle.PickleBuffer(bytes(2 * BIG))], Shelf(8 * BIG))

    part = Part(os.dup(short.fd), to_stay=True)
    assert part._map is not None
    with pytest.raises(EOFError, match="shorter"):
        loads(packed_with(longer), part)


def test_where_no_part_can_be_mapped_it_is_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*args: object) -> mmap.mmap:
        raise OSError("no more descriptors")

    shelf, maps = Shelf(8 * BIG), Maps()
    held = used(shelf, b"a" * BIG)
    monkeypatch.setattr(mmap, "mmap", none_left)
    assert held.part
    before = descriptors()
    assert unpacked(held, maps) == [b"a" * BIG]
    assert descriptors() == before + 1
    packed = packed_with(held)
    assert loads(packed, maps.of(packed, 0, None)) == [b"a" * BIG], "it was told, and comes without a descriptor"
    maps.close()
    assert descriptors() == before
    more = used(shelf, b"b" * (2 * BIG))
    assert not more.part
    assert unpacked(more, maps) == [b"b" * (2 * BIG)]
    assert not maps._parts


def test_no_more_stays_mapped_than_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_MOST_MAPPED", 2)
    shelf, maps = Shelf(8 * BIG), Maps()
    for _ in range(2):
        held = [Memory([pickle.PickleBuffer(bytes([n]) * BIG)], shelf) for n in range(4)]
        assert [unpacked(one, maps)[0][0] for one in held] == [0, 1, 2, 3]
        for one in held:
            one.use_again()
    assert sorted(file.stays_mapped for file in shelf._files) == [False, False, True, True]


def test_what_a_sender_takes_for_told_its_receiver_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_MOST_MAPPED", 3)
    maps, told, brought = Maps(), Told(), 0
    parts = [used(Shelf(8 * BIG), bytes([n]) * BIG) for n in range(5)]
    for n in [0, 1, 0, 2, 0, 3, 0, 0, 4, 1, 2, 3, 3, 4]:
        held, packed = parts[n], packed_with(parts[n])
        known = held.part in told
        if not known:
            told.add(held.part)
            brought += 1
        assert loads(packed, maps.of(packed, 0, None if known else os.dup(held.fd))) == [bytes([n]) * BIG]
        assert list(maps._parts) == list(told._numbers)
        assert len(maps._parts) <= 3

    assert brought == 10


@pytest.mark.parametrize("memory_of", [MEMORY, MEMORY | WITH_FD])
def test_a_lane_that_speaks_of_memory_that_never_came_is_not_believed(memory_of: int) -> None:
    lane = Lane(None)  # type: ignore[arg-type]  # nothing is received

    for packed in (used(Shelf(8 * BIG), bytes(BIG)).head, b"short"):
        with pytest.raises(Garbled):
            lane.part_of(memory_of, packed)


COUNTS_FAULTS = """
import os, pickle, resource
from penstock.pool.processes.memory import Maps, box, dumps, loads

maps = Maps()
packed, held = dumps(box(bytes(1 << 20)), pickle.HIGHEST_PROTOCOL)
for turn in range(12):
    if turn == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    payloads = [loads(packed, maps.of(packed, 0, os.dup(held.fd))) for _ in range(4)]
    del payloads
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 40)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_payloads_that_are_freed_soon_do_not_touch_their_memory_for_the_first_time_each_time() -> None:
    code = [sys.executable, "-c", COUNTS_FAULTS]
    ran = subprocess.run(code, check=True, capture_output=True, text=True, timeout=GUARD)

    assert int(ran.stdout) < 64, "page faults for each payload of 256 pages"


def test_nothing_stays_mapped_of_a_worker_that_has_ended() -> None:
    with ProcessPool(1) as pool:
        pool.submit(int).result(GUARD)  # what starts workers has its own
    before = descriptors()
    with ProcessPool(1) as pool:
        for _ in range(5):
            pool.submit(bytes, BIG).result(GUARD)
        (worker,) = pool._crew.staff.workers()
        assert worker.lane._maps._parts

    assert not worker.lane._maps._parts
    assert descriptors() <= before


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
    def none_left(name: str, flags: int) -> int:
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
        loads(packed, Part(given, to_stay=False))
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
        for _ in range(3):  # from its second use on a file stays mapped
            pool.submit(same, bytes(BIG + 30)).result(GUARD)
        before = descriptors()
        for n in range(30):
            assert pool.submit(same, bytes([n]) * (BIG + n)).result(GUARD) == bytes([n]) * (BIG + n)
        assert descriptors() <= before
        assert memory.OURS.in_use == 0
