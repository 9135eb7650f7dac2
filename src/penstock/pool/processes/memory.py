"""Large buffers on their way between processes: through memory of the kernel's that has no name.

A payload with large buffers (bytes, bytearray, NumPy arrays, whatever pickle can put out of band) writes them into one
anonymous file (memfd), whose descriptor goes along with the frame. There is nothing to clean up: the kernel frees it
when the last process that holds it lets go or dies. Where there is no memfd, buffers go with the rest.

A file whose buffers were copied out at the other end is used again: most of the time goes into memory that is touched
for the first time. The parent knows that by the job's answer; a worker by a mark on the page that both share.
"""

from __future__ import annotations

import mmap
import os
import pickle
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

BIG: Final = 256 * 1024  # bytes: smaller ones travel faster with the rest
_MOST_AT_ONCE: Final = 200  # files in use: beyond that, buffers go with the rest, to save descriptors
_ALIGNED: Final = 64

_SMALL: Final = frozenset({type(None), bool, int, float, str})  # have no buffers
_HAS_MEMFD: Final = hasattr(os, "memfd_create")

Layout = Sequence[tuple[int, int, str]]  # offset, length, and what to make of it: (b)ytes, byte(a)rray, (m)emory


class Shelf:
    """Files of this process that can be used again, at most *most* bytes of them. Safe from any thread.

    Lock: `_lock` guards every field; a leaf. The collector may come at any moment, and put what it collects: so the
    thread that holds it may take it again.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.start_afresh()

    def start_afresh(self) -> None:
        """In the child of a fork: what is there is the parent's."""
        self._lock = threading.RLock()
        self._files: list[tuple[int, int]] = []  # bytes that are there, descriptor
        self._kept = 0  # bytes
        self._out = 0  # files that are in use

    def take(self, size: int) -> tuple[int, int]:
        """A file for *size* bytes, as (bytes that are there, descriptor); OSError if there can be none."""
        with self._lock:
            if self._out >= _MOST_AT_ONCE:
                raise OSError("as many files as may be are in use")
            self._out += 1
            if self._files:
                fitting = [file for file in self._files if file[0] >= size]
                file = min(fitting) if fitting else max(self._files)
                self._files.remove(file)
                self._kept -= file[0]
                return file
        try:
            return 0, os.memfd_create("penstock")
        except OSError:
            with self._lock:
                self._out -= 1
            raise

    def put(self, there: int, fd: int, *, again: bool) -> None:
        """A file is not in use any more; *again*: nobody else looks at it, so that it can be used again."""
        with self._lock:
            self._out -= 1
            again = again and self._kept + there <= self._most
            if again:
                self._files.append((there, fd))
                self._kept += there
        if not again:
            os.close(fd)

    @property
    def in_use(self) -> int:
        """How many files are in use."""
        return self._out


class Memory:
    """One anonymous file with a payload; it closes when it is forgotten.

    *copied*: whoever gets it copies all out of it, and maps nothing.
    """

    def __init__(self, buffers: Sequence[pickle.PickleBuffer], shelf: Shelf) -> None:
        self.fd = -1
        self._shelf = shelf
        self.layout: list[tuple[int, int, str]] = []
        views = [buffer.raw() for buffer in buffers]
        self._there, self.fd = shelf.take(sum(view.nbytes for view in views))
        offset = 0
        for view in views:
            self.layout.append((offset, view.nbytes, {bytes: "b", bytearray: "a"}.get(type(view.obj), "m")))
            _write_all(self.fd, view, offset)
            offset += -(-view.nbytes // _ALIGNED) * _ALIGNED
        self._there = max(self._there, offset)
        self.copied = all(kind != "m" for _, _, kind in self.layout)

    @property
    def size(self) -> int:
        """How many bytes it holds."""
        return sum(length for _, length, _ in self.layout)

    def use_again(self) -> None:
        """Its payload has arrived. Safe to repeat."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self._shelf.put(self._there, fd, again=self.copied)

    def __del__(self) -> None:
        if self.fd >= 0:
            self._shelf.put(self._there, self.fd, again=False)


OURS: Final = Shelf(128 << 20)
"""The shelf of this process."""


def dumps(value: Any, protocol: int) -> tuple[bytes, Memory | None]:
    """*value* as bytes, and its large buffers apart if it has any."""
    if type(value) in _SMALL or not _HAS_MEMFD:
        return pickle.dumps(value, protocol), None
    big: list[pickle.PickleBuffer] = []

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < BIG:
            return True
        big.append(buffer)
        return False

    packed = pickle.dumps(value, protocol, buffer_callback=keep_in_band)
    if not big:
        return packed, None
    try:
        memory = Memory(big, OURS)
    except OSError:  # no descriptors or no room: the long way works still
        return pickle.dumps(value, protocol), None
    return pickle.dumps((packed, memory.layout), protocol), memory


def loads(packed: bytes, fd: int | None) -> Any:
    """What `dumps` was given; *fd* is that of its memory, and is closed."""
    if fd is None:
        return pickle.loads(packed)
    try:
        inner, layout = pickle.loads(packed)
        return pickle.loads(inner, buffers=_buffers(fd, layout))
    finally:
        os.close(fd)


def box(value: Any) -> Any:
    """*value*, or if it is a large bytes or bytearray, or has such items: the same in a form that goes out of band."""
    kind = type(value)
    if kind in (bytes, bytearray):
        return _Boxed(value) if len(value) >= BIG else value
    if kind in (tuple, list) and _has_big(value):
        return kind(map(box, value))
    if kind is dict and _has_big(value.values()):
        return {key: box(item) for key, item in value.items()}
    return value


def _has_big(items: Iterable[Any]) -> bool:
    for item in items:  # noqa: SIM110 - any() would cost a generator for each job
        if type(item) in (bytes, bytearray) and len(item) >= BIG:
            return True
    return False


class _Boxed:
    """Bytes that pickle may put out of band; what comes out over there are bytes again."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes | bytearray) -> None:
        self._value = value

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _same, (pickle.PickleBuffer(self._value),)


def _same(value: Any) -> Any:
    return value


def _buffers(fd: int, layout: Layout) -> Iterator[Any]:
    mapped: memoryview | None = None
    for offset, length, kind in layout:
        if kind == "b":
            yield _read_all(fd, length, offset)
        elif kind == "a":
            made = bytearray(length)
            _read_into(fd, made, offset)
            yield made
        else:
            if mapped is None:  # private: whoever writes to it over there writes to a copy
                mapped = memoryview(mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE))
            yield mapped[offset : offset + length]


def _write_all(fd: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _read_all(fd: int, length: int, offset: int) -> bytes:
    data = os.pread(fd, length, offset)  # without the GIL, into the object itself
    if len(data) == length:
        return data
    made = bytearray(length)  # a read gives at most 2 GiB
    _read_into(fd, made, offset)
    return bytes(made)


def _read_into(fd: int, made: bytearray, offset: int) -> None:
    view = memoryview(made)
    while view:
        count = os.preadv(fd, [view], offset)
        if not count:
            raise EOFError("the memory of a payload is shorter than it said")
        view, offset = view[count:], offset + count


def _in_child() -> None:
    for _, fd in OURS._files:
        os.close(fd)
    OURS.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
