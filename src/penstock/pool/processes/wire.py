"""How a parent and one of its workers speak: two lanes, each a pair of connected stream sockets of their own.

    jobs      parent ──> CALL(seq, number, attempt, extra, call) …        several at a time, if they are short
              worker ──> READY | BROKEN(error)                           once
                         DONE(seq, began, ended, result) | RAISED(seq, began, ended, error) | SKIPPED(seq)
                         MADE: as DONE, and unpickling the result calls code
    control   parent ──> trip(seq, reason, by deadline)                   heard while a job runs
              worker ──> log records

A frame with large buffers says that it has memory (memory.py), and whether a descriptor goes along, in the order of the
frames. Every CALL gets exactly one answer, in order, at once; a worker that dies owes the rest. A CALL of no bytes
stands for a job that got its outcome just before it was sent: it is skipped. The end of the jobs lane tells a worker to
leave; the end of the control lane, which only closes with the parent, ends it on the spot.
"""

from __future__ import annotations

import array
import os
import pickle
import socket
import struct
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from penstock.pool.processes.memory import Maps, Part

CALL: Final = struct.Struct("<BQQIIIQ")  # memory, seq, number, attempt; bytes of extra, of function, of all
ANSWER: Final = struct.Struct("<BBQddQ")  # kind, memory, seq, began, ended (monotonic: one clock for all), bytes
CONTROL: Final = struct.Struct("<I")  # bytes of a pickled message
CHUNK: Final = 1 << 15  # bytes asked for at once: malloc maps and unmaps memory for much larger ones, each time
MOST_FDS: Final = 128  # descriptors that go along with one send
_LOST_SOME: Final = int(getattr(socket, "MSG_CTRUNC", 0))  # an enum's member would cost more than the read
_ROOM_FOR_FDS: Final = socket.CMSG_SPACE(MOST_FDS * 4)


# What an answer is. Plain numbers: an enum's members cost more to compare than the rest of a step.
NO_MEMORY: Final = 0  # of a frame; the memory of an answer has a number from 1 on, if it is used again (page.py)
MEMORY: Final = 127  # or none, as that of a call
WITH_FD: Final = 128  # added to that, if a descriptor goes along

READY: Final = 1
BROKEN: Final = 2
DONE: Final = 3
RAISED: Final = 4
SKIPPED: Final = 5
MADE: Final = 6  # as DONE, and unpacking it calls code or takes long
KINDS: Final = frozenset({READY, BROKEN, DONE, RAISED, SKIPPED, MADE})


class Garbled(Exception):
    """What came can't be understood: a job has written to a descriptor that was not its own, say."""


class Incoming:
    """Frames of one layout from a stream of bytes: a header whose last field is a length, then so many bytes.

    *kinds*: what the first field may be; anything else is `Garbled`.
    """

    def __init__(self, header: struct.Struct, kinds: frozenset[int] | None = None) -> None:
        self._header = header
        self._kinds = kinds
        self._rest: list[bytes] = []  # what came of a frame that is not complete
        self._missing = 0  # bytes that it lacks at least

    def feed(self, data: bytes) -> list[tuple[tuple[Any, ...], bytes]]:
        """The frames that *data* completes: the header's fields, and what follows them."""
        if self._rest:
            self._rest.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return []
            data = b"".join(self._rest)
            self._rest.clear()
        found: list[tuple[tuple[Any, ...], bytes]] = []
        kinds = self._kinds
        unpack, size, add = self._header.unpack_from, self._header.size, found.append
        at, end = 0, len(data)
        while end - at >= size:
            fields = unpack(data, at)
            if kinds is not None and fields[0] not in kinds:
                raise Garbled
            body = at + size
            following = body + fields[-1]
            if following > end:
                self._missing = following - end
                break
            add((fields, data[body:following]))
            at = following
        else:
            self._missing = size - (end - at)
        if at < end:
            self._rest.append(data[at:])
        return found


class Lane:
    """What comes in on a jobs lane: bytes, and the descriptors that went along."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._fds: deque[int] = deque()
        self._maps = Maps()

    def recv(self) -> bytes:
        """As socket.recv; descriptors wait for `part_of`. Garbled if one was lost: nobody knows whose."""
        data, told, flags, _ = self._sock.recvmsg(CHUNK, _ROOM_FOR_FDS)
        for level, kind, packed in told:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(packed[: len(packed) - len(packed) % fds.itemsize])
                self._fds.extend(fds)
        if flags & _LOST_SOME:
            raise Garbled("descriptors were lost, as too many files are open")
        return data

    def part_of(self, memory: int, packed: bytes, at: int = 0) -> Part | None:
        """Where the buffers are of the value that begins at *at*. Asked of each frame in its turn, with its field."""
        if not memory:
            return None
        try:
            return self._maps.of(packed, at, self._fds.popleft() if memory & WITH_FD else None)
        except (IndexError, KeyError, struct.error):
            raise Garbled from None

    def close(self) -> None:
        """Close what nobody will take, and what stayed mapped."""
        self._maps.close()
        while self._fds:
            os.close(self._fds.popleft())


def send_with_fds(sock: socket.socket, data: bytes | memoryview, fds: list[int]) -> int:
    """As socket.send, with descriptors."""
    return sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def message(content: Any) -> bytes:
    """A message for a control lane."""
    packed = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
    return CONTROL.pack(len(packed)) + packed


def messages(sock: socket.socket) -> Iterator[Any]:
    """The messages of a control lane, until its end."""
    incoming = Incoming(CONTROL)
    while data := sock.recv(CHUNK):
        for _, packed in incoming.feed(data):
            yield pickle.loads(packed)
