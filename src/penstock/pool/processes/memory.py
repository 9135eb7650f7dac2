"""Large buffers on their way between processes: through memory of the kernel's that has no name.

A payload with large buffers (bytes, bytearray, NumPy arrays, whatever pickle can put out of band) writes them into one
anonymous file (memfd), whose descriptor goes along with the frame. There is nothing to clean up: the kernel frees it
when the last process that holds it lets go or dies. Where there is no memfd, buffers go with the rest.

A file whose buffers were copied out at the other end is used again: most of the time goes into memory that is touched
for the first time. The parent knows that by the job's answer; a worker by a mark on the page that both share. From its
second use on its first part stays mapped at both ends, where a copy costs a third of a read or write:

    pack ── first use ──> write ──> file, its descriptor goes along ──> read ──────────────────────> unpack
       ├─── second ─────> mapped part, its descriptor and its number go along ──> mapped there ──┬─> unpack
       └─── later ──────> the same part, only its number goes along ──> the same, still mapped ──┘

Both ends of a lane forget the number that was told first when there are too many: they see the same frames in the same
order, so what a sender takes for told its receiver has.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import pickle
import struct
import threading
from collections.abc import Collection, Sequence
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

_TOO_SHORT: Final = "the memory of a payload is shorter than it said"
_SMALL: Final = frozenset({type(None), bool, int, float, str})  # have no buffers
_BYTES: Final = frozenset({bytes, bytearray})
_HAS_MEMFD: Final = hasattr(os, "memfd_create")

Layout = Sequence[tuple[int, int, int]]  # of each buffer its offset, its length, and what becomes of it

_BYTES_MADE, _BYTEARRAY_MADE, _MAPPED_THERE = range(3)  # what becomes of a buffer
_MADE_OF: Final[dict[type, int]] = {bytes: _BYTES_MADE, bytearray: _BYTEARRAY_MADE}

# Before the pickle of a value with memory: the number of the part that it is in, or 0; how many buffers; each of them.
_HEAD: Final = struct.Struct("<QI")
_BUFFER: Final = struct.Struct("<QB")  # its length, and what becomes of it


class File:
    """An anonymous file. Whoever has it may use it: one at a time."""

    __slots__ = ("_part", "fd", "number", "stays_mapped", "there")

    def __init__(self) -> None:
        self.fd = os.memfd_create("penstock", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.number = 0  # of its part as it is mapped now: no other part of this process ever has it
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
                self.number = next(_numbers)
            except OSError:  # no descriptor is left, say
                return None
        return self._part

    def close(self) -> None:
        """It is not needed any more."""
        os.close(self.fd)
        if self._part is not None:
            self._part.close()


_numbers = itertools.count(1)


class Told:
    """The numbers of parts that one lane's receiver has by now. Whoever sends there asks, one at a time."""

    def __init__(self) -> None:
        self._numbers: dict[int, None] = {}  # in the order in which they were told

    def __contains__(self, number: int) -> bool:
        return number in self._numbers

    def add(self, number: int) -> None:
        """It is told, in the frame that is sent now."""
        self._numbers[number] = None
        if len(self._numbers) > _MOST_MAPPED:
            del self._numbers[next(iter(self._numbers))]


class Maps:
    """The parts that came on one lane and have a number: as many as its sender takes for told. One thread's."""

    def __init__(self) -> None:
        self._parts: dict[int, Part] = {}  # in the order in which they were told

    def of(self, packed: bytes, at: int, fd: int | None) -> Part:
        """Where the buffers of the value that begins at *at* are; *fd* has come along, if it had to."""
        number, _ = _HEAD.unpack_from(packed, at)
        if fd is None:
            return self._parts[number]
        part = Part(fd, to_stay=number > 0)
        if number:
            self._parts[number] = part
            if len(self._parts) > _MOST_MAPPED:
                del self._parts[next(iter(self._parts))]
        return part

    def close(self) -> None:
        """The other process has ended."""
        self._parts.clear()


class Part:
    """What a receiver has of a file: its first part, mapped *to_stay*; or its descriptor, if that can't or need not be.

    It closes when it is forgotten, and one that is not to stay as soon as it was unpacked.
    """

    __slots__ = ("_fd", "_map", "_stays")

    def __init__(self, fd: int, *, to_stay: bool) -> None:
        self._fd = fd
        self._stays = to_stay
        self._map: mmap.mmap | None = None
        if to_stay:
            with contextlib.suppress(OSError, ValueError):  # no descriptor is left, say: it is read
                # To look at a part that was cut off would be the end of this process.
                if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                    size = min(os.fstat(fd).st_size, _MAPPED)
                    self._map = mmap.mmap(fd, size, _SHARED, mmap.PROT_READ)
                    self._close()

    def buffers(self, layout: Layout) -> list[Any]:
        """What there is, copied out but for what is to be mapped."""
        if self._map is None:
            return _read(self._fd, layout)
        return _copied(self._map, layout)

    def was_unpacked(self) -> None:
        """If it is not to stay, it is not needed any more."""
        if not self._stays:
            self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self._close()


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

    *copied*: whoever gets it copies all out of it. *part*: the number of its part if both ends keep that mapped, or 0.
    *head*: what its receiver needs to know of it. *size*: how many bytes it holds.
    """

    __slots__ = ("_file", "_shelf", "copied", "head", "part", "size")

    def __init__(self, buffers: Sequence[pickle.PickleBuffer], shelf: Shelf) -> None:
        self._file: File | None = None
        self._shelf = shelf
        views = [buffer.raw() for buffer in buffers]
        self.copied = True
        self.size = end = 0
        told = b""
        for view in views:
            end = _aligned(end) + view.nbytes
            made = _MADE_OF.get(type(view.obj), _MAPPED_THERE)
            if made == _MAPPED_THERE:
                self.copied = False
            told += _BUFFER.pack(view.nbytes, made)
            self.size += view.nbytes
        self._file = file = shelf.take(end)
        part = file.mapped(end) if self.copied else None
        at = 0
        for view in views:
            at = _aligned(at)
            if part is None:
                _write_all(file.fd, view, at)
            else:
                part[at : at + view.nbytes] = view
            at += view.nbytes
        self.part = 0 if part is None else file.number
        self.head = _HEAD.pack(self.part, len(views)) + told
        file.there = max(file.there, end)

    @property
    def fd(self) -> int:
        """Its descriptor; -1 once it was given back."""
        return -1 if self._file is None else self._file.fd

    def use_again(self) -> None:
        """Its payload has arrived. Safe to repeat."""
        file, self._file = self._file, None
        if file is not None:
            self._shelf.put(file, again=self.copied)

    def __del__(self) -> None:
        if self._file is not None:
            self._shelf.put(self._file, again=False)


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNED) * _ALIGNED


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
    return memory.head + packed, memory


def loads(packed: bytes, part: Part | None) -> Any:
    """What `dumps` was given; *part* is where its buffers are, if it has any."""
    if part is None:
        return pickle.loads(packed)
    _make_room()
    try:
        _, count = _HEAD.unpack_from(packed)
        layout: list[tuple[int, int, int]] = []
        end = 0
        head = memoryview(packed)
        for length, made in _BUFFER.iter_unpack(head[_HEAD.size : _HEAD.size + count * _BUFFER.size]):
            offset = _aligned(end)
            end = offset + length
            layout.append((offset, length, made))
        return pickle.loads(head[_HEAD.size + count * _BUFFER.size :], buffers=part.buffers(layout))
    finally:
        part.was_unpacked()


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
        return pickle.PickleBuffer(value) if len(value) >= BIG else value
    if kind in (tuple, list) and _has_big(value):
        return kind(map(box, value))
    if kind is dict and _has_big(value.values()):
        return {key: box(item) for key, item in value.items()}
    return value


def _has_big(items: Collection[Any]) -> bool:
    if _BYTES.isdisjoint(map(type, items)):  # mostly, and a loop would take five times as long
        return False
    return any(type(item) in _BYTES and len(item) >= BIG for item in items)


def _copied(part: mmap.mmap, layout: Layout) -> list[Any]:
    """Buffers of which each is copied out: others never are in a part that stays mapped."""
    offset, length, _ = layout[-1]
    if offset + length > len(part):
        raise EOFError(_TOO_SHORT)
    return [
        part[offset : offset + length] if made == _BYTES_MADE else bytearray(memoryview(part)[offset : offset + length])
        for offset, length, made in layout
    ]


def _read(fd: int, layout: Layout) -> list[Any]:
    mapped: memoryview | None = None
    found: list[Any] = []
    for offset, length, made in layout:
        if made == _BYTES_MADE:
            found.append(_read_all(fd, length, offset))
        elif made == _BYTEARRAY_MADE:
            buffer = bytearray(length)
            _read_into(fd, buffer, offset)
            found.append(buffer)
        else:
            if mapped is None:  # private: whoever writes to it over there writes to a copy
                mapped = memoryview(mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE))
            found.append(mapped[offset : offset + length])
    return found


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
            raise EOFError(_TOO_SHORT)
        view, offset = view[count:], offset + count


def _in_child() -> None:
    for file in OURS._files:
        file.close()
    OURS.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
