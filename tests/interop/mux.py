"""The stream layer of peermux/1 (sections 9 to 11 and 13), without input and output and with one simple scheduler."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Optional

from peermux import (INITIAL_MAX_DATA, INITIAL_MAX_STREAM_DATA, INITIAL_MAX_STREAMS, MAX_RECORD, Q, CODES, Frame, ProtocolError,
                     encode_frame, stream_frame, varint)

OPEN, FINISHED, RESET = "Open", "Finished", "Reset"


@dataclass
class Stream:
    id: int
    send_limit: int
    recv_limit: int
    name: str = ""
    priority: int = 3
    send: str = OPEN
    recv: str = OPEN
    sent: int = 0
    received: int = 0
    out: bytearray = field(default_factory=bytearray)
    got: bytearray = field(default_factory=bytearray)
    fin_queued: bool = False
    stopped: bool = False
    error: Optional[tuple[int, int]] = None

    def ended(self) -> bool:
        return self.send != OPEN and self.recv != OPEN

    def sendable(self) -> bool:
        return self.send == OPEN and (bool(self.out) or self.fin_queued)


class Mux:
    """One side of a connection. `first_id` is 0 for the initiator, 1 for the responder; `mine` and `theirs` are the
    settings that each side sent."""

    def __init__(self, first_id: int, mine: dict[int, int], theirs: dict[int, int]) -> None:
        self.first_id, self.mine, self.theirs = first_id, mine, theirs
        self.streams: dict[int, Stream] = {}
        self.next_own, self.next_peer = first_id, 1 - first_id
        self.peer_streams, self.own_streams = mine[INITIAL_MAX_STREAMS], theirs[INITIAL_MAX_STREAMS]
        # Own streams below the first number, and not of an earlier pair, begin with the second as their limit.
        self.windows = [(self.own_streams, theirs[INITIAL_MAX_STREAM_DATA])]
        self.recv_limit, self.send_limit = mine[INITIAL_MAX_DATA], theirs[INITIAL_MAX_DATA]
        self.received = self.sent = 0
        self.ended_peer_streams = 0
        self.names_in: list[str] = []
        self.names_out: list[str] = []
        self.control: deque[Frame] = deque()
        self.pong: Optional[bytes] = None
        self.pongs: list[bytes] = []
        self.once: set[str] = set()
        self.records_in = 0
        # Initiator: the responder is still to say that it has accepted; and the records before the one that did.
        self.decides, self.undecided = False, 0
        self.drained = self.draining = False  # by the peer, by this side
        self.attestation: Optional[bytes] = None
        self.peer_close: Optional[Frame] = None
        self.opened: list[Stream] = []  # by the peer, for the application to take

    # -- receiving --

    def receive(self, frames: list[Frame], record: bool = True) -> None:
        """All frames of one record, or of a payload of the handshake. Raises ProtocolError."""
        self.records_in += record
        for fr in frames:
            handler = getattr(self, "_on_" + fr.kind.lower())
            handler(fr)

    def _known(self, fr: Frame) -> Stream:
        stream = self.streams.get(fr.stream)
        if stream is None:
            raise ProtocolError("STREAM_ID", f"{fr.kind} for {fr.stream}, which was never opened")
        return stream

    def _on_ping(self, fr: Frame) -> None:
        self.pong = fr.data

    def _on_pong(self, fr: Frame) -> None:
        self.pongs.append(fr.data)

    def _on_max_data(self, fr: Frame) -> None:
        self.send_limit = max(self.send_limit, fr.maximum)

    def _on_max_stream_data(self, fr: Frame) -> None:
        stream = self._known(fr)
        stream.send_limit = max(stream.send_limit, fr.maximum)

    def _on_max_streams(self, fr: Frame) -> None:
        if fr.maximum > self.own_streams:
            self.own_streams = fr.maximum
            self.windows.append((fr.maximum, fr.window))

    def _on_open(self, fr: Frame) -> None:
        name = ""
        if fr.form == "new":
            if len(self.names_in) >= 64:
                raise ProtocolError("FRAME_ENCODING", "the table of names is full")
            self.names_in.append(fr.name)
        if fr.form == "index":
            if fr.index >= len(self.names_in):
                raise ProtocolError("FRAME_ENCODING", "an index without a name")
            name = self.names_in[fr.index]
        elif fr.form != "none":
            name = fr.name
        if fr.stream != self.next_peer:
            raise ProtocolError("STREAM_ID", f"OPEN of {fr.stream}, not {self.next_peer}")
        if fr.stream // 2 >= self.peer_streams:
            raise ProtocolError("STREAM_LIMIT")
        if self.drained:
            raise ProtocolError("FRAME_NOT_ALLOWED", "OPEN after the peer's own DRAIN")
        self.next_peer += 2
        stream = self._new(fr.stream, name, fr.priority, fr.window)
        if self.draining:
            self._refuse(stream)
        else:
            self.opened.append(stream)

    def _on_stream(self, fr: Frame) -> None:
        stream, size = self._known(fr), len(fr.payload)
        if not stream.ended() and stream.recv != OPEN:
            raise ProtocolError("STREAM_STATE", f"STREAM on a half that is {stream.recv}")
        self.received += size
        if self.received > self.recv_limit:
            raise ProtocolError("FLOW_CONTROL", "connection")
        if stream.ended():
            return self._credit(size)
        stream.received += size
        if stream.received > stream.recv_limit:
            raise ProtocolError("FLOW_CONTROL", "stream")
        if stream.stopped:
            self._credit(size)
        else:
            stream.got += fr.payload
        if fr.fin:
            stream.recv = FINISHED
            self._maybe_ended(stream)

    def _on_reset(self, fr: Frame) -> None:
        stream = self._known(fr)
        if stream.ended():
            return
        if stream.recv != OPEN:
            raise ProtocolError("STREAM_STATE", f"RESET of a half that is {stream.recv}")
        stream.recv, stream.error = RESET, (fr.layer, fr.code)
        self._credit(len(stream.got))
        stream.got.clear()
        self._maybe_ended(stream)

    def _on_stop(self, fr: Frame) -> None:
        stream = self._known(fr)
        if stream.send == OPEN:
            self.reset(stream, fr.layer, fr.code)

    def _on_priority(self, fr: Frame) -> None:
        self._known(fr).priority = fr.priority

    def _on_close(self, fr: Frame) -> None:
        self.peer_close = fr

    def _on_drain(self, fr: Frame) -> None:
        if self.drained:
            raise ProtocolError("FRAME_NOT_ALLOWED", "a second DRAIN")
        self.drained = True

    def _early_once(self, kind: str, code: str) -> None:
        if kind in self.once or not self.decides and self.records_in - self.undecided > 16:
            raise ProtocolError(code, f"{kind} again or too late")
        self.once.add(kind)

    def _on_settings(self, fr: Frame) -> None:
        self._early_once("SETTINGS", "SETTINGS_INVALID")
        if self.decides:
            self.decides, self.undecided = False, self.records_in - 1

    def _on_attestation(self, fr: Frame) -> None:
        self._early_once("ATTESTATION", "FRAME_NOT_ALLOWED")
        self.attestation = fr.attestation

    def _on_skippable(self, fr: Frame) -> None:
        pass

    # -- what the application does --

    def _new(self, ident: int, name: str, priority: int, window: int) -> Stream:
        """`window` is what this side may send at first. It gives every stream the same."""
        stream = Stream(ident, window, self.mine[INITIAL_MAX_STREAM_DATA], name, priority)
        self.streams[ident] = stream
        return stream

    def settings_known(self, theirs: dict[int, int]) -> None:
        """The peer's settings, where streams were opened for early data before they were known."""
        self.theirs = theirs
        self.own_streams, self.send_limit = theirs[INITIAL_MAX_STREAMS], theirs[INITIAL_MAX_DATA]
        self.windows = [(self.own_streams, theirs[INITIAL_MAX_STREAM_DATA])]
        for stream in self.streams.values():
            stream.send_limit = theirs[INITIAL_MAX_STREAM_DATA]

    def open(self, name: str, priority: int = 3, intern: bool = False) -> Stream:
        """With `intern` the name goes into this direction's table."""
        assert self.next_own // 2 < self.own_streams and not self.drained and not self.draining
        ident = self.next_own
        self.next_own += 2
        if not intern or not name:
            form: dict[str, object] = {"form": "once", "name": name} if name else {"form": "none"}
        elif name in self.names_out:
            form = {"form": "index", "index": self.names_out.index(name)}
        else:
            self.names_out.append(name)
            form = {"form": "new", "name": name}
        mine = self.mine[INITIAL_MAX_STREAM_DATA]
        self.control.append(Frame("OPEN", {"stream": ident, "priority": priority, "window": mine, **form}))
        return self._new(ident, name, priority, next(window for end, window in self.windows if ident // 2 < end))

    def read(self, stream: Stream) -> bytes:
        """Takes what has arrived and gives the credit back."""
        data = bytes(stream.got)
        stream.got.clear()
        if data:
            self._credit(len(data))
            if stream.recv == OPEN:
                stream.recv_limit += len(data)
                if stream.recv_limit - stream.received >= self.mine[INITIAL_MAX_STREAM_DATA] // 4:
                    self._replace("MAX_STREAM_DATA", {"stream": stream.id, "maximum": stream.recv_limit})
        return data

    def reset(self, stream: Stream, layer: int, code: int) -> None:
        stream.send = RESET
        stream.out.clear()
        self.control.append(Frame("RESET", {"stream": stream.id, "layer": layer, "code": code}))
        self._maybe_ended(stream)

    def stop(self, stream: Stream, layer: int, code: int) -> None:
        stream.stopped = True
        self.control.append(Frame("STOP", {"stream": stream.id, "layer": layer, "code": code}))

    def drain(self, code: int) -> None:
        if not self.draining:
            self.draining = True
            self.control.append(Frame("DRAIN", {"code": code}))

    def drained_out(self) -> bool:
        """Has the peer sent DRAIN, and is nothing left to do but to close? A side that has only sent it waits for the peer."""
        return self.drained and not self.control and all(s.ended() for s in self.streams.values())

    def _refuse(self, stream: Stream) -> None:
        self.stop(stream, 1, CODES.index("REFUSED"))
        self.reset(stream, 1, CODES.index("REFUSED"))

    def _maybe_ended(self, stream: Stream) -> None:
        if stream.ended() and stream.id % 2 != self.first_id and not self.draining:
            self.peer_streams += 1
            self._replace("MAX_STREAMS", {"maximum": self.peer_streams, "window": self.mine[INITIAL_MAX_STREAM_DATA]})

    def _credit(self, size: int) -> None:
        if size:
            self.recv_limit += size
            self._replace("MAX_DATA", {"maximum": self.recv_limit})

    def _replace(self, kind: str, fields: dict[str, int]) -> None:
        """Queues a frame that makes an earlier one of its kind and stream pointless."""
        self.control = deque(f for f in self.control if f.kind != kind or f.f.get("stream") != fields.get("stream"))
        self.control.append(Frame(kind, fields))

    # -- sending --

    def wants(self) -> int:
        """About how many bytes of frames could leave now; 0 is none."""
        size = sum(len(encode_frame(f)) for f in self.control) + (9 if self.pong is not None else 0)
        credit = self.send_limit - self.sent
        for s in self.streams.values():
            if s.sendable():
                n = min(len(s.out), s.send_limit - s.sent, credit)
                credit -= n
                if n or not s.out:
                    size += n + 8
        return size

    def next_size(self) -> int:
        """What to announce: more than one quantum only for payload that may leave now."""
        payload, credit = 0, self.send_limit - self.sent
        for s in self.streams.values():
            if s.send == OPEN:
                payload += max(0, min(len(s.out), s.send_limit - s.sent))
        if min(payload, credit) == 0:
            return 1
        return max(1, min(self.theirs[MAX_RECORD], -(-(min(payload, credit) + 17) // Q)))

    def fill(self, room: int, only: Optional[frozenset[str]] = None) -> bytes:
        """The frames for one record with `room` bytes; of control frames only the kinds in `only`, if it is given."""
        out = bytearray()
        if self.pong is not None and only is None:
            out += encode_frame(Frame("PONG", {"data": self.pong}))
            self.pong = None
        waiting, self.control, full = self.control, deque(), False
        for fr in waiting:
            raw = encode_frame(fr)
            if only is not None and fr.kind not in only:
                self.control.append(fr)
            elif full or len(out) + len(raw) > room:
                self.control.append(fr)
                full = True
            else:
                out += raw
        if full:
            return bytes(out)
        for s in self.streams.values():
            left = room - len(out) - 1 - len(varint(s.id)) - 4
            if not s.sendable() or left < 1:
                continue
            n = min(len(s.out), s.send_limit - s.sent, self.send_limit - self.sent, left)
            fin = s.fin_queued and n == len(s.out)
            if n <= 0 and not fin:
                continue
            out += encode_frame(stream_frame(s.id, bytes(s.out[:n]), fin))
            del s.out[:n]
            s.sent += n
            self.sent += n
            if fin:
                s.send = FINISHED
                self._maybe_ended(s)
        return bytes(out)
