"""Large buffers on their way between processes: through memory of the kernel's that has no name.

A payload with large buffers (bytes, bytearray, NumPy arrays, whatever pickle can put out of band) writes them into one
anonymous file (memfd), whose descriptor goes along with the frame. There is nothing to clean up: the kernel frees it
when the last process that holds it lets go or dies. Where there is no memfd, buffers go with the rest.

A file whose buffers were copied out at the other end is used again: most of the time goes into memory that is touched
for the first time. The parent knows that by the job's answer; a worker by a mark on the page that both share. From its
second use on its first part stays mapped at both ends, where a copy costs a third of a read or write:

    pack ── first use ──> write ──> file ──> read ──────────> unpack
       └─── later ──────> mapped part, its number goes along ──> the same part, mapped there ──> unpack
"""

from __future__ import annotations

import itertools
import mmap
import os
import pickle
import threading
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

try:
    import fcntl
except ImportError:  # then there is no memfd either
    pass

BIG: Final = 64 * 1024  # bytes: smaller ones travel faster with the rest
_MOST_AT_ONCE: Final = 200  # files in use: beyond that, buffers go with the rest, to save descriptors
_ALIGNED: Final = 64
_MAPPED: Final = 4 << 20  # bytes of a file that stay mapped: for more the GIL would be held for too long
_MOST_MAPPED: Final = 32  # files of which a part is: each costs a descriptor more
_ROOM: Final = 8 << 20  # bytes: more than most payloads
_SHARED: Final = getattr(mmap, "MAP_SHARED", 0) | getattr(mmap, "MAP_POPULATE", 0)

_SMALL: Final = frozenset({type(None), bool, int, float, str})  # have no buffers
_BYTES: Final = frozenset({bytes, bytearray})
_HAS_MEMFD: Final = hasattr(os, "memfd_create")

Layout = Sequence[tuple[int, int, str]]  # offset, length, and what to make of it: (b)ytes, byte(a)rray, (m)emory


class File:
    """An anonymous file. Whoever has it may use it: one at a time."""

    __slots__ = ("_part", "fd", "number", "stays_mapped", "there")

    def __init__(self) -> None:
        self.fd = os.memfd_create("penstock", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.number = next(_numbers)  # no other file of this process has it
        self.there = 0  # bytes of it that exist
        self.stays_mapped = False  # a part of it does, from the next use on
        self._part: mmap.mmap | None = None

    def mapped(self, size: int) -> mmap.mmap | None:
        """Its first *size* bytes or more, mapped; None if they don't exist yet, are too many or can't be mapped."""
        if size > min(self.there, _MAPPED) or not self.stays_mapped:
            return None
        if self._part is None or len(self._part) < size:
            try:
                fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)  # nobody loses the ground that is mapped
                self._part = mmap.mmap(self.fd, min(os.fstat(self.fd).st_size, _MAPPED), _SHARED)
            except OSError:  # no descriptor is left, say
                return None
        return self._part

    def close(self) -> None:
        """It is not needed any more."""
        os.close(self.fd)
        if self._part is not None:
            self._part.close()


_numbers = itertools.count(1)


class Maps:
    """Parts of files of one other process that stay mapped here: those used last. Safe from any thread.

    Lock: `_lock` guards `_parts`; a leaf.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: dict[int, mmap.mmap] = {}  # by the numbers of their files; the last used is the last

    def get(self, number: int, fd: int, size: int) -> mmap.mmap | None:
        """The first *size* bytes or more of file *number*, to which *fd* leads; None if they can't be mapped."""
        with self._lock:
            part = self._parts.pop(number, None)
            if part is None or len(part) < size:
                try:
                    if not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                        return None  # to look at a part that was cut off would be the end of this process
                    part = mmap.mmap(fd, size, _SHARED, mmap.PROT_READ)
                except (OSError, ValueError):
                    return None
            self._parts[number] = part
            if len(self._parts) > _MOST_MAPPED:
                del self._parts[next(iter(self._parts))]
            return part

    def close(self) -> None:
        """The other process has ended."""
        with self._lock:
            self._parts.clear()


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
        self._files: list[File] = []  # the last used is the last
        self._kept = 0  # bytes
        self._out = 0  # files that are in use
        self._mapped = 0  # files of which a part stays mapped, in use or not

    def take(self, size: int) -> File:
        """A file for *size* bytes; OSError if there can be none."""
        with self._lock:
            if self._out >= _MOST_AT_ONCE:
                raise OSError("as many files as may be are in use")
            self._out += 1
            if self._files:
                fitting = [file for file in reversed(self._files) if file.there >= size]
                file = min(fitting, key=_there) if fitting else max(self._files, key=_there)
                self._files.remove(file)
                self._kept -= file.there
                if not file.stays_mapped and self._mapped < _MOST_MAPPED:
                    file.stays_mapped = True
                    self._mapped += 1
                return file
        try:
            return File()
        except OSError:
            with self._lock:
                self._out -= 1
            raise

    def put(self, file: File, *, again: bool) -> None:
        """*file* is not in use any more; *again*: nobody else looks at it, so that it can be used again."""
        with self._lock:
            self._out -= 1
            again = again and self._kept + file.there <= self._most
            if again:
                self._files.append(file)
                self._kept += file.there
            else:
                self._mapped -= file.stays_mapped
        if not again:
            file.close()

    @property
    def in_use(self) -> int:
        """How many files are in use."""
        return self._out


def _there(file: File) -> int:
    return file.there


class Memory:
    """One anonymous file with a payload; it closes when it is forgotten.

    *copied*: whoever gets it copies all out of it. *part*: the number of its file if both ends keep that mapped, or 0.
    """

    def __init__(self, buffers: Sequence[pickle.PickleBuffer], shelf: Shelf) -> None:
        self._file: File | None = None
        self._shelf = shelf
        self.layout: list[tuple[int, int, str]] = []
        views = [buffer.raw() for buffer in buffers]
        needed = 0
        for view in views:
            self.layout.append((needed, view.nbytes, {bytes: "b", bytearray: "a"}.get(type(view.obj), "m")))
            needed += -(-view.nbytes // _ALIGNED) * _ALIGNED
        self.copied = all(kind != "m" for _, _, kind in self.layout)
        self._file = file = shelf.take(needed)
        part = file.mapped(self._end) if self.copied else None
        for (offset, length, _), view in zip(self.layout, views, strict=True):
            if part is None:
                _write_all(file.fd, view, offset)
            else:
                part[offset : offset + length] = view
        self.part = 0 if part is None else file.number
        file.there = max(file.there, self._end)

    @property
    def fd(self) -> int:
        """Its descriptor; -1 once it was given back."""
        return -1 if self._file is None else self._file.fd

    @property
    def _end(self) -> int:
        offset, length, _ = self.layout[-1]
        return offset + length

    @property
    def size(self) -> int:
        """How many bytes it holds."""
        return sum(length for _, length, _ in self.layout)

    def use_again(self) -> None:
        """Its payload has arrived. Safe to repeat."""
        file, self._file = self._file, None
        if file is not None:
            self._shelf.put(file, again=self.copied)

    def __del__(self) -> None:
        if self._file is not None:
            self._shelf.put(self._file, again=False)


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
    return pickle.dumps((packed, memory.part, memory.layout), protocol), memory


def loads(packed: bytes, fd: int | None, maps: Maps) -> Any:
    """What `dumps` was given; *fd* is that of its memory, and is closed. *maps*: those of the process that sent it."""
    if fd is None:
        return pickle.loads(packed)
    _make_room()
    try:
        inner, number, layout = pickle.loads(packed)
        offset, length, _ = layout[-1]
        part = maps.get(number, fd, offset + length) if number else None
        if part is not None:
            return pickle.loads(inner, buffers=_buffers_of_part(part, layout))
        return pickle.loads(inner, buffers=_buffers(fd, layout))
    finally:
        os.close(fd)


_has_room = False


def _make_room() -> None:
    """Once: have malloc keep the memory of payloads that are freed soon.

    glibc gives what is free at the end of a heap back to the system once it is twice as large as the largest block that
    was ever freed. A next payload of 1 MiB is then touched for the first time again, which takes 600 us in place of 50.
    """
    global _has_room
    if not _has_room:
        _has_room = True
        bytes(_ROOM)  # a block of nothing, which is freed at once


def box(value: Any) -> Any:
    """*value*, or if it is a large bytes or bytearray, or has such items: the same in a form that goes out of band."""
    kind = type(value)
    if kind in _BYTES:
        return _Boxed(value) if len(value) >= BIG else value
    if kind in (tuple, list) and _has_big(value):
        return kind(map(box, value))
    if kind is dict and _has_big(value.values()):
        return {key: box(item) for key, item in value.items()}
    return value


def _has_big(items: Collection[Any]) -> bool:
    if _BYTES.isdisjoint(map(type, items)):  # mostly, and a loop would take five times as long
        return False
    return any(type(item) in _BYTES and len(item) >= BIG for item in items)


class _Boxed:
    """Bytes that pickle may put out of band; what comes out over there are bytes again."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes | bytearray) -> None:
        self._value = value

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _same, (pickle.PickleBuffer(self._value),)


def _same(value: Any) -> Any:
    return value


def _buffers_of_part(part: mmap.mmap, layout: Layout) -> Iterator[bytes | bytearray]:
    for offset, length, kind in layout:
        yield part[offset : offset + length] if kind == "b" else bytearray(memoryview(part)[offset : offset + length])


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
    for file in OURS._files:
        file.close()
    OURS.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
