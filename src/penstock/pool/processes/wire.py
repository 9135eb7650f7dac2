"""How a parent and one of its workers speak: two lanes, each a pair of connected stream sockets of their own.

    jobs      parent ──> CALL(seq, number, attempt, extra, call) …        several at a time, if they are short
              worker ──> READY | BROKEN(error)                           once
                         DONE(seq, began, ended, result) | RAISED(seq, began, ended, error) | SKIPPED(seq)
                         MADE: as DONE, and unpickling the result calls code
    control   parent ──> trip(seq, reason, by deadline)                   heard while a job runs
              worker ──> log records

Every CALL gets exactly one answer, in order, at once; a worker that dies owes the rest. A CALL of no bytes stands for a
job that got its outcome just before it was sent: it is skipped. The end of the jobs lane tells
a worker to leave; the end of the control lane, which only closes with the parent, ends it on the spot.
"""

from __future__ import annotations

import enum
import pickle
import socket
import struct
from collections.abc import Iterator
from typing import Any, Final

CALL: Final = struct.Struct("<QQIIQ")  # seq, number, attempt, bytes of extra, bytes of call
ANSWER: Final = struct.Struct("<BQddQ")  # kind, seq, began, ended (monotonic: one clock for all processes), bytes
CONTROL: Final = struct.Struct("<I")  # bytes of a pickled message
CHUNK: Final = 1 << 18  # bytes asked for at once


class Kind(enum.IntEnum):
    """What an answer is."""

    READY = 1
    BROKEN = 2
    DONE = 3
    RAISED = 4
    SKIPPED = 5
    MADE = 6


class Garbled(Exception):
    """What came is no answer: a job has written to a descriptor that was not its own."""


class Incoming:
    """Frames of one layout from a stream of bytes: a header whose last fields are lengths, then so many bytes.

    *kinds*: what the first field may be; anything else is `Garbled`.
    """

    def __init__(self, header: struct.Struct, lengths: int, kinds: type[enum.IntEnum] | None = None) -> None:
        self._header = header
        self._lengths = lengths
        self._kinds = None if kinds is None else frozenset(map(int, kinds))
        self._rest = bytearray()
        self._wanted = 0  # bytes of the whole frame that has begun, if it is known

    def feed(self, data: bytes) -> Iterator[tuple[tuple[Any, ...], bytes]]:
        """The frames that *data* completes: the header's fields, and what follows them."""
        rest = self._rest
        rest += data
        if len(rest) < self._wanted:
            return
        self._wanted = 0
        size, at, end = self._header.size, 0, len(rest)
        while end - at >= size:
            fields = self._header.unpack_from(rest, at)
            if self._kinds is not None and fields[0] not in self._kinds:
                raise Garbled
            length = sum(fields[-self._lengths :])
            if end - at < size + length:
                self._wanted = size + length
                break
            at += size
            yield fields, bytes(memoryview(rest)[at : at + length])
            at += length
        del rest[:at]


def message(content: Any) -> bytes:
    """A message for a control lane."""
    packed = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
    return CONTROL.pack(len(packed)) + packed


def messages(sock: socket.socket) -> Iterator[Any]:
    """The messages of a control lane, until its end."""
    incoming = Incoming(CONTROL, 1)
    while data := sock.recv(CHUNK):
        for _, packed in incoming.feed(data):
            yield pickle.loads(packed)
