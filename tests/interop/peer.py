#!/usr/bin/env python3
"""A peermux/1 peer over real TCP, in both roles and both modes.

    peer.py dial HOST PORT --key HEX [--known HEX | --hint HEX | --unknown] [--script NAME] [--suite 1|2] [--anonymous]
    peer.py listen PORT --key HEX [--previous HEX] [--suite 1|2] [--no-fallback] [--host ADDRESS]

--key is the own static private key. --known is a responder key that must be proved, --hint one that may be stale.
Prints one line of JSON and exits with 0 if all went as it should, else with 1."""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import sys
import time
from typing import Any, Optional

import peermux as pm
from mux import FINISHED, OPEN, RESET, Mux, Stream

TIMEOUT = 20.0
HANDSHAKE = 15.0
SCRIPTS = ("echo", "keyupdate", "multi", "small", "close", "ping")
PROTOCOL = "interop/echo"


class Gone(Exception):
    """TCP ended, or time is over."""


def grease_id(low: int, high: int) -> int:
    return 31 * random.randint(-(-(low - 27) // 31), (high - 27) // 31) + 27


def tlvs(versions: bytes, suites: bytes, flags: int, settings: Optional[pm.Settings], offer: bool, timestamp: bool = False) -> pm.Tlvs:
    out = [(pm.T_VERSIONS, versions), (pm.T_SUITES, suites)]
    if flags:
        out.append((pm.T_FLAGS, bytes([flags])))
    if timestamp:
        out.append((pm.T_TIMESTAMP, int(time.time() * 1000).to_bytes(8, "big")))
    if settings is not None:
        out.append((pm.T_SETTINGS, pm.encode_settings(settings + [(grease_id(64, 16000), random.randrange(2**20))])))
    out.append((random.randint(0xE0, 0xEF), os.urandom(random.randint(0, 8))))
    random.shuffle(out)
    return out


class Wire:
    """A socket with one deadline for everything."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.deadline = sock, time.monotonic() + TIMEOUT
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _arm(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Gone("time is over")
        self.sock.settimeout(left)

    def read(self, n: int) -> bytes:
        out = b""
        while len(out) < n:
            self._arm()
            try:
                part = self.sock.recv(n - len(out))
            except OSError as e:
                raise Gone(f"reading: {e or 'time is over'}") from None
            if not part:
                raise Gone(f"TCP ended after {len(out)} of {n} bytes")
            out += part
        return out

    def write(self, data: bytes) -> None:
        self._arm()
        try:
            self.sock.sendall(data)
        except OSError as e:
            raise Gone(f"writing: {e}") from None

    def discard(self, seconds: float) -> None:
        """Reads and discards until TCP ends or the time is over."""
        self.deadline = min(self.deadline, time.monotonic() + max(seconds, 0.01))
        try:
            while True:
                self.read(1)
        except Gone:
            pass


class Connection:
    """After the handshake: records in both directions and the Mux above them. It reads one record at a time and
    answers before the next, which is enough because each side's windows are far below what the sockets buffer."""

    def __init__(self, wire: Wire, secrets: pm.Secrets, initiator: bool, mode: str, mine: dict[int, int], theirs: dict[int, int],
                 i2r_size: int, key_update_every: int = 0) -> None:
        self.wire, self.mode, self.initiator, self.key_update_every = wire, mode, initiator, key_update_every
        i2r = pm.Direction(secrets.suite, secrets.i2r, i2r_size)
        r2i = pm.Direction(secrets.suite, secrets.r2i)
        self.tx, self.rx = (i2r, r2i) if initiator else (r2i, i2r)
        self.mux = Mux(0 if initiator else 1, mine, theirs)
        self.my_close: Optional[tuple[int, int]] = None

    def _area_size(self, direction: pm.Direction, is_i2r: bool) -> Optional[int]:
        return pm.FLIGHT3_AREA if is_i2r and self.mode == "ik" and direction.n == 0 else None

    def send_record(self) -> None:
        room = self._area_size(self.tx, self.initiator) or self.tx.room()
        area = self.mux.fill(room)
        if room - len(area) >= 16 and random.random() < 0.3:
            area += pm.encode_frame(pm.Frame("SKIPPABLE", {"type": grease_id(0x40, 0x3FFF), "bytes": os.urandom(random.randint(0, 8))}))
        update = bool(self.key_update_every) and self.tx.n % self.key_update_every == self.key_update_every - 1
        self.wire.write(self.tx.seal(pm.header(self.mux.next_size(), key_update=update), area))

    def flush(self) -> None:
        # A record that was announced larger than one quantum is owed even if nothing is left to say.
        while self.mux.wants() or self.tx.size > 1:
            self.send_record()

    def receive(self) -> None:
        record = self.wire.read(self.rx.size * pm.Q)
        area_size = self._area_size(self.rx, not self.initiator)
        try:
            _, frames = self.rx.open(record, self.mux.mine[pm.MAX_RECORD], area_size)
        except pm.AuthFailed:
            if area_size is None:
                raise
            raise pm.HandshakeFailed("flight 3 does not authenticate") from None
        self.mux.receive(frames)

    def close(self, layer: int, code: int, reason: str = "") -> None:
        fr = pm.Frame("CLOSE", {"layer": layer, "code": code, "reason": reason})
        self.wire.write(self.tx.seal(pm.header(end=True), pm.encode_frame(fr)))
        self.my_close = (layer, code)
        try:
            self.wire.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def finish(self) -> None:
        """After the own CLOSE: waits at most 3 s for the peer's, then for the end of TCP. What comes between is discarded."""
        self.wire.deadline = min(self.wire.deadline, time.monotonic() + 3)
        while self.mux.peer_close is None:
            self.receive()
        self.wire.discard(3)

    def run(self, application: Any) -> None:
        """application(mux) is called after each record and returns true when it wants to close."""
        try:
            done = application(self.mux)
            self.flush()
            while not done and self.mux.peer_close is None:
                self.receive()
                if self.mux.peer_close is None:
                    done = application(self.mux)
                    self.flush()
        except pm.ProtocolError as e:
            self.close(1, e.code, str(e))
            raise
        self.close(1, 0)
        self.finish()


def pattern(n: int) -> bytes:
    return bytes(i * 7 % 251 for i in range(n))


class EchoClient:
    def __init__(self, mux: Mux, streams: int, size: int) -> None:
        self.streams: list[tuple[Stream, bytes]] = []
        for i in range(streams):
            stream, data = mux.open(PROTOCOL, 3 | (i % 2) << 3), pattern(size + i)
            stream.out += data
            stream.fin_queued = True
            self.streams.append((stream, data))
        self.got = [bytearray() for _ in self.streams]
        self.ping = os.urandom(8)
        self.pinged = False

    def __call__(self, mux: Mux) -> bool:
        for i, (stream, _) in enumerate(self.streams):
            self.got[i] += mux.read(stream)
            if stream.error:
                return True
        if all(s.recv == FINISHED for s, _ in self.streams) and not self.pinged:
            self.pinged = True
            mux.control.append(pm.Frame("PING", {"data": self.ping}))
        return self.ping in mux.pongs

    def good(self, mux: Mux) -> bool:
        return self.ping in mux.pongs and all(bytes(g) == d for g, (_, d) in zip(self.got, self.streams))


def echo_server(mux: Mux) -> bool:
    for stream in list(mux.streams.values()):
        if stream.id % 2 == mux.first_id or stream.send != OPEN:
            continue
        if len(stream.out) < 65536:
            stream.out += mux.read(stream)
        if stream.recv == FINISHED and not stream.got:
            stream.fin_queued = True
        if stream.recv == RESET:
            mux.reset(stream, 1, pm.CODES.index("CANCELLED"))
    return False


def settings_for(args: argparse.Namespace) -> pm.Settings:
    if getattr(args, "script", "") == "small":
        return []
    return [(pm.MAX_RECORD, 16), (pm.INITIAL_MAX_DATA, 1 << 17), (pm.INITIAL_MAX_STREAM_DATA, 1 << 16), (pm.INITIAL_MAX_STREAMS, 100)]


def report(conn: Optional[Connection], **members: Any) -> None:
    if conn is not None:
        peer = conn.mux.peer_close
        members |= {"my_close": conn.my_close, "peer_close": peer and [peer.layer, peer.code, peer.reason],
                    "records_sent": conn.tx.n, "records_received": conn.rx.n, "key_update_every": conn.key_update_every}
    sys.stdout.write(json.dumps(members) + "\n")
    sys.stdout.flush()


def dial(args: argparse.Namespace) -> int:
    out: dict[str, Any] = {"role": "initiator", "ok": False, "mode": None, "peer": None, "bytes": 0, "error": None}
    conn = None
    started = time.monotonic()
    sock = socket.create_connection((args.host, args.port), timeout=TIMEOUT)
    wire = Wire(sock)
    settings = settings_for(args)
    mine = pm.check_settings(settings)
    flags = pm.ANONYMOUS if args.anonymous else 0
    suites = bytes([args.suite] + [s for s in (pm.CHACHA,) if s != args.suite])
    hint = args.known or args.hint
    try:
        hs = pm.Initiator(os.urandom(32) if args.anonymous else args.key, os.urandom(32), os.urandom(64), hint)
        if hint:
            wire.write(hs.m1(pm.encode_payload("P1", tlvs(b"\1", suites + b"\xe3", flags, settings, True, True))))
        else:
            wire.write(hs.m1_unknown(os.urandom(1600)))
        raw = hs.read_m2(wire.read(pm.M2_LEN))
        assert hs.rs is not None
        out |= {"mode": hs.mode, "peer": hs.rs.hex()}
        if args.known and hs.rs != args.known:
            raise pm.HandshakeFailed("another responder key than expected")
        p2 = pm.decode_payload("P2-IK" if hs.mode == "ik" else "P2-fallback", raw)
        if hs.mode == "ik":
            if not pm.chosen_from(b"\1", suites, p2):
                raise pm.HandshakeFailed("the choice was not offered")
            suite, i2r_size = p2.suites[0], 1
        else:
            if not pm.offered(p2) or not (takes := [s for s in suites if s in p2.suites]):
                raise pm.HandshakeFailed("nothing in the offer")
            suite, i2r_size = takes[0], 1
        mux = Mux(0, mine, p2.limits)
        streams, size = {"multi": (8, 20_000), "small": (1, 30_000), "ping": (0, 0), "close": (0, 0)}.get(args.script, (1, 100_000))
        client = EchoClient(mux, streams, size)
        if hs.mode == "fallback":
            closing = args.script == "close"
            area = pm.encode_frame(pm.Frame("CLOSE", {"layer": 0, "code": 77, "reason": "at once"})) if closing else mux.fill(pm.FLIGHT3_AREA)
            i2r_size = 1 if closing else mux.next_size()
            p3 = pm.encode_payload("P3", tlvs(b"\1", bytes([suite]), flags, settings, False), area, pm.header(i2r_size, end=closing))
            wire.write(hs.flight3(p3))
        secrets = pm.derive(hs.state.h, hs.state.ck, suite)
        conn = Connection(wire, secrets, True, hs.mode, mine, p2.limits, i2r_size, 3 if args.script == "keyupdate" else 0)
        conn.mux = mux
        out |= {"suite": suite, "h": secrets.h.hex(), "handshake_ms": round(1000 * (time.monotonic() - started), 1)}
        if args.script == "close":
            if hs.mode == "ik":
                conn.close(0, 77, "at once")
            else:
                conn.my_close = (0, 77)
                sock.shutdown(socket.SHUT_WR)
            conn.finish()
            out["ok"] = True
        else:
            if hs.mode == "ik":
                conn.send_record()
            conn.run(client)
            out |= {"ok": client.good(mux), "bytes": sum(map(len, client.got))}
        peer = conn.mux.peer_close
        out["ok"] = bool(out["ok"] and peer is not None and (peer.layer == 0 or peer.code == 0))
    except (pm.HandshakeFailed, pm.Malformed) as e:
        out["error"] = f"handshake failed: {e}"
        wire.discard(HANDSHAKE - (time.monotonic() - started))
    except (pm.AuthFailed, pm.ProtocolError, Gone) as e:
        out["error"] = f"{type(e).__name__}: {e}"
    sock.close()
    report(conn, **out)
    return 0 if out["ok"] else 1


def listen(args: argparse.Namespace) -> int:
    out: dict[str, Any] = {"role": "responder", "ok": False, "mode": None, "peer": None, "bytes": 0, "error": None}
    conn = None
    server = socket.create_server((args.host, args.port))
    server.settimeout(TIMEOUT)
    print(f"listening on port {server.getsockname()[1]} with key {pm.public(args.key).hex()}", file=sys.stderr, flush=True)
    try:
        sock, _ = server.accept()
    except OSError:
        report(None, **out | {"error": "nobody came"})
        return 1
    server.close()
    started = time.monotonic()
    wire = Wire(sock)
    settings = settings_for(args)
    mine = pm.check_settings(settings)
    suites = bytes([args.suite] + [s for s in (pm.CHACHA,) if s != args.suite])
    try:
        hs = pm.Responder([args.key] + ([args.previous] if args.previous else []), os.urandom(32), os.urandom(32), not args.no_fallback)
        takes = lambda p: pm.VERSION in p.versions and any(s in p.suites for s in suites)
        raw = hs.read_m1(wire.read(pm.M1_LEN), takes)
        closing = False
        if raw is not None:
            p = pm.decode_payload("P1", raw)
            suite, i2r_size = next(s for s in suites if s in p.suites), 1
            wire.write(hs.m2(pm.encode_payload("P2-IK", tlvs(b"\1", bytes([suite]), 0, settings, False))))
        else:
            wire.write(hs.m2(pm.encode_payload("P2-fallback", tlvs(b"\1\xe1", suites + b"\xe2", 0, settings, True))))
            p = pm.decode_payload("P3", hs.read_flight3(wire.read(pm.F3_LEN)))
            if not pm.chosen_from(b"\1", suites, p):
                raise pm.HandshakeFailed("the choice was not offered")
            suite, i2r_size = p.suites[0], (p.header & 15) + 1
            if i2r_size > mine[pm.MAX_RECORD]:
                raise pm.HandshakeFailed("P3 announces a record above MAX_RECORD")
        secrets = pm.derive(hs.state.h, hs.state.ck, suite)
        conn = Connection(wire, secrets, False, hs.mode, mine, p.limits, i2r_size)
        out |= {"mode": hs.mode, "peer": hs.si.hex(), "suite": suite, "h": secrets.h.hex(), "anonymous": bool(p.flags & pm.ANONYMOUS)}

        def application(mux: Mux) -> bool:
            nonlocal closing
            if raw is None and not closing:
                closing = True  # once: P3 holds frames like a record
                frames = pm.decode_area(p.area)
                pm.check_end(p.header, frames)
                mux.receive(frames)
            return echo_server(mux) or mux.peer_close is not None
        conn.run(application)
        out["bytes"] = conn.mux.received
        out["ok"] = conn.mux.peer_close is not None
    except (pm.HandshakeFailed, pm.Malformed) as e:
        out["error"] = f"handshake failed: {e}"
        wire.discard(HANDSHAKE - (time.monotonic() - started))
    except (pm.AuthFailed, pm.ProtocolError, Gone) as e:
        out["error"] = f"{type(e).__name__}: {e}"
    sock.close()
    report(conn, **out)
    return 0 if out["ok"] else 1


def key(text: str) -> bytes:
    raw = bytes.fromhex(text)
    if len(raw) != 32:
        raise argparse.ArgumentTypeError("32 bytes of hexadecimal")
    return raw


def main() -> int:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = top.add_subparsers(dest="what", required=True)
    d = sub.add_parser("dial")
    d.add_argument("host")
    d.add_argument("port", type=int)
    how = d.add_mutually_exclusive_group()
    how.add_argument("--known", type=key, help="the responder's public key, which must be proved")
    how.add_argument("--hint", type=key, help="a responder's public key that may be stale")
    how.add_argument("--unknown", action="store_true")
    d.add_argument("--script", choices=SCRIPTS, default="echo")
    d.add_argument("--anonymous", action="store_true")
    li = sub.add_parser("listen")
    li.add_argument("port", type=int)
    li.add_argument("--host", default="127.0.0.1")
    li.add_argument("--previous", type=key, help="the previous static private key")
    li.add_argument("--no-fallback", action="store_true")
    for p in (d, li):
        p.add_argument("--key", type=key, required=True, help="the own static private key")
        p.add_argument("--suite", type=int, choices=(1, 2), default=1, help="the preferred suite")
    args = top.parse_args()
    return dial(args) if args.what == "dial" else listen(args)


if __name__ == "__main__":
    sys.exit(main())
