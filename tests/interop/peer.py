#!/usr/bin/env python3
"""A peermux/1 peer over real TCP, in both roles and both modes.

    peer.py dial HOST PORT --key HEX [--known HEX | --hint HEX | --unknown] [--script NAME] [--early] [--anonymous] [...]
    peer.py listen PORT --key HEX [--previous HEX] [--early accept|refuse] [--drain] [--no-fallback] [--host ADDRESS] [...]

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
import rules
from mux import FINISHED, OPEN, RESET, Mux, Stream

TIMEOUT = 20.0
HANDSHAKE = 15.0
SCRIPTS = ("echo", "keyupdate", "multi", "small", "close", "ping", "drain", "cross", "idle", "alive")
PROTOCOL = "interop/echo"
IDLE, SHAPING_REFUSED, GOING_AWAY, CANCELLED, REFUSED = (
    pm.CODES.index(c) for c in ("IDLE_TIMEOUT", "SHAPING_REFUSED", "GOING_AWAY", "CANCELLED", "REFUSED"))


class Gone(Exception):
    """TCP ended, or time is over."""


class Idle(Exception):
    """The idle timeout has passed."""


def grease_id(low: int, high: int) -> int:
    return 31 * random.randint(-(-(low - 27) // 31), (high - 27) // 31) + 27


class Wire:
    """A socket with one deadline for everything."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.deadline, self.buffer = sock, time.monotonic() + TIMEOUT, b""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _arm(self, until: float) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Gone("time is over")
        self.sock.settimeout(max(min(left, until - time.monotonic()), 0.0001))

    def arrived(self, n: int, until: float = float("inf")) -> bool:
        """Waits for n bytes; false if `until` comes first."""
        while len(self.buffer) < n:
            self._arm(until)
            try:
                part = self.sock.recv(1 << 16)
            except TimeoutError:
                if time.monotonic() >= until:
                    return False
                continue
            except OSError as e:
                raise Gone(f"reading: {e}") from None
            if not part:
                raise Gone(f"TCP ended after {len(self.buffer)} of {n} bytes")
            self.buffer += part
        return True

    def read(self, n: int) -> bytes:
        self.arrived(n)
        out, self.buffer = self.buffer[:n], self.buffer[n:]
        return out

    def write(self, data: bytes) -> None:
        self._arm(float("inf"))
        try:
            self.sock.sendall(data)
        except OSError as e:
            raise Gone(f"writing: {e}") from None

    def discard(self, seconds: float) -> None:
        """Reads and discards until TCP ends or the time is over."""
        until = min(self.deadline, time.monotonic() + max(seconds, 0.01))
        try:
            while time.monotonic() < until:
                self.buffer = b""
                self.arrived(1, until)
        except Gone:
            pass


class Connection:
    """After the handshake: records in both directions and the Mux above them. It reads one record at a time and
    answers before the next, which is enough because each side's windows are far below what the sockets buffer."""

    def __init__(self, wire: Wire, secrets: pm.Secrets, initiator: bool, mode: str, mux: Mux, shaping: rules.Shaping,
                 i2r_size: int = 1, key_update_every: int = 0, keepalive: float = 0) -> None:
        self.wire, self.mode, self.initiator, self.key_update_every = wire, mode, initiator, key_update_every
        i2r = pm.Direction(secrets.suite, secrets.i2r, i2r_size)
        r2i = pm.Direction(secrets.suite, secrets.r2i)
        self.tx, self.rx = (i2r, r2i) if initiator else (r2i, i2r)
        self.mux, self.shaping, self.keepalive = mux, shaping, keepalive
        self.idle = min((s[pm.IDLE_TIMEOUT] / 1000 for s in (mux.mine, mux.theirs) if s[pm.IDLE_TIMEOUT]), default=0.0)
        self.heard = time.monotonic()
        self.ping_at = self.slot = float("inf")
        self.burst, self.bursts = 0, []  # type: int, list[int]
        self.my_close: Optional[tuple[int, int]] = None

    def flight3_done(self) -> None:
        """Flight 3 has left or has arrived: shaping is in force, and the timers run."""
        now = time.monotonic()
        self.heard = now
        self._draw_keepalive()
        if self.shaping.mode == rules.CONSTANT:
            self.slot = now + self.shaping.interval / 1e6

    # -- sending --

    def _draw_keepalive(self) -> None:
        if self.keepalive:
            self.ping_at = time.monotonic() + random.uniform(self.keepalive / 2, self.keepalive)

    def _area_size(self, direction: pm.Direction, is_i2r: bool) -> Optional[int]:
        return pm.FLIGHT3_AREA if is_i2r and self.mode == "ik" and direction.n == 0 else None

    def next_size(self) -> int:
        return self.shaping.size if self.shaping.mode == rules.CONSTANT else self.mux.next_size()

    def send_record(self, first: bytes = b"", only: Optional[frozenset[str]] = None) -> None:
        """`first` goes before all else; `only` is that of Mux.fill, and forbids greasing."""
        flight3 = self._area_size(self.tx, self.initiator)
        room = flight3 or self.tx.room()
        area = first + self.mux.fill(room - len(first), only)
        if room - len(area) >= 16 and only is None and random.random() < 0.3:
            area += pm.encode_frame(pm.Frame("SKIPPABLE", {"type": grease_id(0x40, 0x3FFF), "bytes": os.urandom(random.randint(0, 8))}))
        update = bool(self.key_update_every) and self.tx.n % self.key_update_every == self.key_update_every - 1
        self.burst += 0 if flight3 else self.tx.size
        self.wire.write(self.tx.seal(pm.header(self.next_size(), key_update=update), area))
        self._draw_keepalive()

    def flush(self) -> None:
        """Sends all that may leave now; under constant shaping that is for the slots to do."""
        if self.shaping.mode == rules.CONSTANT:
            return
        # A record that was announced larger than one quantum is owed even if nothing is left to say.
        while self.mux.wants() or self.tx.size > 1 or (self.shaping.mode == rules.BUCKETED and self.burst < rules.padme(self.burst)):
            self.send_record()
        if self.burst and self.shaping.mode == rules.BUCKETED:
            self.bursts.append(self.burst)
        self.burst = 0

    def close(self, layer: int, code: int, reason: str = "") -> None:
        if self.slot < float("inf"):  # the last record takes a slot as well
            time.sleep(max(0.0, self.slot - time.monotonic()))
        self.wire.write(self.tx.seal(pm.header(end=True), pm.encode_frame(close_frame(layer, code, reason))))
        self.closed(layer, code)

    def closed(self, layer: int, code: int) -> None:
        """The last record has left."""
        self.my_close, self.slot, self.ping_at = (layer, code), float("inf"), float("inf")
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

    # -- receiving --

    def open_record(self) -> list[pm.Frame]:
        record = self.wire.read(self.rx.size * pm.Q)
        area_size = self._area_size(self.rx, not self.initiator)
        try:
            _, frames = self.rx.open(record, self.mux.mine[pm.MAX_RECORD], area_size)
        except pm.AuthFailed:
            if area_size is None:
                raise
            raise pm.HandshakeFailed("flight 3 does not authenticate") from None
        self.heard = time.monotonic()
        return frames

    def receive(self) -> None:
        self.mux.receive(self.open_record())

    def wait(self, wake: float) -> None:
        """Until a record was received, a timer was served, or `wake` has come."""
        idle_at = self.heard + self.idle if self.idle else float("inf")
        if self.wire.arrived(self.rx.size * pm.Q, min(idle_at, self.ping_at, self.slot, wake)):
            self.receive()
        now = time.monotonic()
        if now >= idle_at and self.heard + self.idle <= now:
            raise Idle
        if now >= self.ping_at:
            self.mux.control.append(pm.Frame("PING", {"data": os.urandom(8)}))
            self._draw_keepalive()
        if now >= self.slot:
            self._serve_slot()

    def _serve_slot(self) -> None:
        self.send_record()
        self.slot += self.shaping.interval / 1e6
        if self.slot < time.monotonic():  # what was missed is not made up for
            self.slot = time.monotonic() + self.shaping.interval / 1e6

    def punish(self) -> None:
        """Section 13.5: after a record that does not authenticate."""
        until = time.monotonic() + random.uniform(2, 10)
        self.mux.control.clear()
        self.mux.streams.clear()
        while (now := time.monotonic()) < until:
            if self.slot <= now:
                try:
                    self._serve_slot()
                except Gone:
                    self.slot = float("inf")
            due = min(self.slot, until)
            self.wire.discard(due - now)
            time.sleep(max(0.0, due - time.monotonic()))  # the end of TCP does not shorten it

    def run(self, application: Any) -> None:
        """application(mux) is called after each record and timer, and when its time `wake` has come; it returns true when it
        wants to close. Timers run from here on."""
        last = (1, 0)
        try:
            while True:
                if self.mux.peer_close is not None:
                    break
                done = application(self.mux)
                self.flush()
                if done or self.mux.drained_out():
                    break
                self.wait(getattr(application, "wake", float("inf")))
        except pm.ProtocolError as e:
            self.fail(e)
        except pm.AuthFailed:
            self.punish()
            raise
        except Idle:
            last = (1, IDLE)
        self.close(*last)
        self.finish()

    def fail(self, e: pm.ProtocolError) -> None:
        """Section 13.6."""
        self.close(1, e.code, str(e))
        try:
            self.finish()
        except (pm.ProtocolError, pm.AuthFailed, Gone):
            pass
        raise e


def close_frame(layer: int, code: int, reason: str = "") -> pm.Frame:
    return pm.Frame("CLOSE", {"layer": layer, "code": code, "reason": reason})


# ---- the applications ----

def pattern(n: int) -> bytes:
    return bytes(i * 7 % 251 for i in range(n))


class EchoClient:
    """The dialer's scripts: requests that must come back, and what is peculiar to each script."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.script = args.script
        self.requests: list[tuple[Stream, bytes]] = []
        self.got: dict[int, bytearray] = {}
        self.crossing: Optional[Stream] = None
        self.ping = os.urandom(8)
        self.pinged = False
        self.quiet = 3 * args.idle / 1000 if self.script == "alive" else 0.0
        self.wake = float("inf")

    def request(self, mux: Mux, size: int, priority: int = 3, intern: bool = False) -> Stream:
        stream, data = mux.open(PROTOCOL, priority, intern), pattern(size)
        stream.out += data
        stream.fin_queued = True
        self.requests.append((stream, data))
        self.got[stream.id] = bytearray()
        return stream

    def open_early(self, mux: Mux) -> None:
        """One request that early data holds whole, and one of which it holds the beginning."""
        self.request(mux, 300, intern=True)
        self.request(mux, 3000, intern=True)

    def open(self, mux: Mux) -> None:
        streams, size = {"multi": (8, 20_000), "small": (1, 30_000), "ping": (0, 0), "close": (0, 0), "idle": (0, 0),
                         "alive": (0, 0)}.get(self.script, (1, 100_000))
        for i in range(streams):
            self.request(mux, size + i, 3 | (i % 2) << 3)
        if self.quiet:
            self.wake = time.monotonic() + self.quiet

    def __call__(self, mux: Mux) -> bool:
        for stream, _ in self.requests:
            self.got[stream.id] += mux.read(stream)
            if stream.error:
                return True
        if self.script == "drain":
            mux.drain(GOING_AWAY)  # after the first flight of OPENs; the end of all streams ends the connection
        if self.script == "cross" and self.crossing is None:
            self.crossing = mux.open(PROTOCOL)  # leaves before anything was read, so it crosses a DRAIN that answers flight 3
            self.crossing.out += b"too late"
        if time.monotonic() >= self.wake:
            self.wake = float("inf")
            self.request(mux, 100_000)
        waits = self.wake < float("inf") or mux.drained or mux.draining or self.script == "idle"
        if not waits and not self.pinged and all(s.recv == FINISHED for s, _ in self.requests):
            self.pinged = True
            mux.control.append(pm.Frame("PING", {"data": self.ping}))
        return self.ping in mux.pongs

    def good(self, mux: Mux) -> bool:
        echoed = all(self.got[s.id] == d for s, d in self.requests)
        refused = self.crossing is None or (self.crossing.error == (1, REFUSED) and self.crossing.ended())
        ended = self.ping in mux.pongs or mux.drained or mux.draining or self.script == "idle"
        return echoed and refused and ended


class EchoServer:
    def __init__(self, drains: bool = False) -> None:
        self.drains = drains

    def __call__(self, mux: Mux) -> bool:
        for stream in list(mux.streams.values()):
            if stream.id % 2 == mux.first_id or stream.send != OPEN:
                continue
            if len(stream.out) < 65536:
                stream.out += mux.read(stream)
            if stream.recv == FINISHED and not stream.got:
                stream.fin_queued = True
            if stream.recv == RESET:
                mux.reset(stream, 1, CANCELLED)
        if self.drains and mux.opened:
            mux.drain(GOING_AWAY)
        return False


# ---- what both roles say of themselves ----

class Self:
    """One side's own values, from the arguments."""

    def __init__(self, args: argparse.Namespace, role: int) -> None:
        self.args, self.role = args, role
        self.static: bytes = os.urandom(32) if getattr(args, "anonymous", False) else args.key
        self.suites = bytes([args.suite] + [s for s in (pm.CHACHA,) if s != args.suite])
        self.settings: pm.Settings = []
        if getattr(args, "script", "") != "small":
            self.settings += [(pm.MAX_RECORD, 16), (pm.INITIAL_MAX_DATA, 1 << 17), (pm.INITIAL_MAX_STREAM_DATA, 1 << 16), (pm.INITIAL_MAX_STREAMS, 100)]
        if args.idle:
            self.settings.append((pm.IDLE_TIMEOUT, args.idle))
        if args.shaping.mode:
            self.settings.append((pm.SHAPING, args.shaping.setting()))
        self.limits = pm.check_settings(self.settings)

    def now(self) -> int:
        """Milliseconds since 1970."""
        return int(1000 * (time.time() + self.args.clock))

    def tlvs(self, versions: bytes, suites: bytes, flags: int = 0, timestamp: bool = False, static: bytes = b"") -> pm.Tlvs:
        """`static` is the private key that this handshake proves, if it is not the usual one."""
        out = [(pm.T_VERSIONS, versions), (pm.T_SUITES, suites)]
        if flags:
            out.append((pm.T_FLAGS, bytes([flags])))
        if timestamp:
            out.append((pm.T_TIMESTAMP, self.now().to_bytes(8, "big")))
        if self.settings:
            out.append((pm.T_SETTINGS, pm.encode_settings(self.settings + [(grease_id(64, 16000), random.randrange(2**20))])))
        if self.args.attest and not self.args.attest_frame:
            out.append((pm.T_ATTESTATION, self.attestation(static)))
        out.append((random.randint(0xE0, 0xEF), os.urandom(random.randint(0, 8))))
        random.shuffle(out)
        return out

    def attestation(self, static: bytes = b"") -> bytes:
        seed, not_after = self.args.attest
        return rules.attest(seed, not_after, pm.public(static or self.static), self.role)

    def attest_by_frame(self, mux: Mux, static: bytes = b"") -> None:
        if self.args.attest and self.args.attest_frame:
            mux.control.append(pm.Frame("ATTESTATION", {"attestation": self.attestation(static)}))

    def identity(self, peer_static: bytes, in_tlv: Optional[bytes], in_frame: Optional[bytes]) -> Optional[str]:
        """What the peer's attestations bind to its key; that of the handshake counts first."""
        if not self.args.verify:
            return None
        for attestation in (in_tlv, in_frame):
            who = rules.identity(attestation, peer_static, 1 - self.role, self.now() // 1000)
            if who is not None:
                return who.hex()
        return None

    def not_oneself(self, peer_static: bytes, own: bytes = b"") -> None:
        if peer_static == pm.public(own or self.static):
            raise pm.HandshakeFailed("the peer proves this side's own key")


def report(conn: Optional[Connection], **members: Any) -> None:
    if conn is not None:
        peer, mux = conn.mux.peer_close, conn.mux
        members |= {"my_close": conn.my_close, "peer_close": peer and [peer.layer, peer.code, peer.reason],
                    "records_sent": conn.tx.n, "records_received": conn.rx.n, "key_update_every": conn.key_update_every,
                    "drained": mux.drained, "pongs": len(mux.pongs), "shaping": conn.shaping.setting(), "bursts": conn.bursts}
    sys.stdout.write(json.dumps(members) + "\n")
    sys.stdout.flush()


def dial(args: argparse.Namespace) -> int:
    me = Self(args, rules.INITIATOR)
    out: dict[str, Any] = {"role": "initiator", "ok": False, "mode": None, "peer": None, "bytes": 0, "early": None, "identity": None, "error": None}
    conn = None
    started = time.monotonic()
    sock = socket.create_connection((args.host, args.port), timeout=TIMEOUT)
    wire = Wire(sock)
    hint = args.known or args.hint
    mux, client, early = Mux(0, me.limits, pm.check_settings([])), EchoClient(args), b""
    if args.early:
        client.open_early(mux)
        early = mux.fill(pm.FLIGHT3_AREA)
    anonymous = pm.ANONYMOUS if args.anonymous else 0
    try:
        hs = pm.Initiator(me.static, os.urandom(32), os.urandom(64), hint)
        if hint:
            tlvs = me.tlvs(b"\1", me.suites + b"\xe3", anonymous | (pm.EARLY if early else 0), timestamp=True)
            wire.write(hs.m1(pm.encode_payload("P1", tlvs, early)))
        else:
            wire.write(hs.m1_unknown(os.urandom(1600)))
        raw = hs.read_m2(wire.read(pm.M2_LEN))
        assert hs.rs is not None
        out |= {"mode": hs.mode, "peer": hs.rs.hex()}
        me.not_oneself(hs.rs)
        if args.known and hs.rs != args.known:
            raise pm.HandshakeFailed("another responder key than expected")
        p2 = pm.decode_payload("P2-IK" if hs.mode == "ik" else "P2-fallback", raw)
        if hs.mode == "ik":
            if not pm.chosen_from(b"\1", me.suites, p2):
                raise pm.HandshakeFailed("the choice was not offered")
            suite = p2.suites[0]
        else:
            if not pm.offered(p2) or not (takes := [s for s in me.suites if s in p2.suites]):
                raise pm.HandshakeFailed("nothing in the offer")
            suite = takes[0]
        accepted = bool(early) and hs.mode == "ik" and bool(p2.flags & pm.EARLY)
        if early:
            out["early"] = "accepted" if accepted else "refused"
        mux.settings_known(p2.limits)
        mux.decides = bool(p2.flags & pm.DECIDES)
        shaping = rules.agree(me.limits, p2.limits)
        client.open(mux)
        me.attest_by_frame(mux)

        farewell, fault = None, None  # what flight 3 closes with, if it does
        if args.script == "close":
            farewell = (0, 77, "at once")
        if args.refuse_shaping and shaping.mode:
            farewell = (1, SHAPING_REFUSED, "")
        try:
            if hs.mode == "ik":
                mux.receive(rules.decode_answers(p2.area, accepted), record=False)
                out["early_in_p2"] = mux.received
        except pm.ProtocolError as e:
            farewell, fault = (1, e.code, str(e)), e

        again, i2r_size = b"" if accepted else early, 1
        if hs.mode == "fallback":
            if farewell:
                area = pm.encode_frame(close_frame(*farewell))
            else:
                area = again + mux.fill(pm.FLIGHT3_AREA - len(again))
                i2r_size = shaping.size if shaping.mode == rules.CONSTANT else mux.next_size()
            p3 = pm.encode_payload("P3", me.tlvs(b"\1", bytes([suite]), anonymous | (pm.EARLY if again and not farewell else 0)), area, pm.header(i2r_size, end=bool(farewell)))
            wire.write(hs.flight3(p3))
        secrets = pm.derive(hs.state.h, hs.state.ck, suite)
        conn = Connection(wire, secrets, True, hs.mode, mux, shaping, i2r_size, 3 if args.script == "keyupdate" else 0, args.keepalive / 1000)
        out |= {"suite": suite, "h": secrets.h.hex(), "handshake_ms": round(1000 * (time.monotonic() - started), 1)}
        if farewell:
            if hs.mode == "ik":
                conn.close(*farewell)
            else:
                conn.closed(*farewell[:2])
            conn.finish()
            if fault:
                raise fault
            out["ok"] = True
        else:
            if hs.mode == "ik":
                conn.send_record(again)
            conn.flight3_done()
            conn.run(client)
            # A responder that decides has said by now that it has accepted.
            out |= {"ok": client.good(mux) and not mux.decides, "bytes": sum(map(len, client.got.values()))}
        out["identity"] = me.identity(hs.rs, p2.attestation, mux.attestation)
        peer = mux.peer_close
        orderly = {(1, 0), (1, IDLE)} if args.script == "idle" else {(1, 0)}
        out["ok"] = bool(out["ok"] and peer is not None and (peer.layer == 0 or (peer.layer, peer.code) in orderly))
    except (pm.HandshakeFailed, pm.Malformed) as e:
        out["error"] = f"handshake failed: {e}"
        wire.discard(HANDSHAKE - (time.monotonic() - started))
    except (pm.AuthFailed, pm.ProtocolError, Gone) as e:
        out["error"] = f"{type(e).__name__}: {e}"
    sock.close()
    report(conn, **out)
    return 0 if out["ok"] else 1


def listen(args: argparse.Namespace) -> int:
    me = Self(args, rules.RESPONDER)
    out: dict[str, Any] = {"role": "responder", "ok": False, "mode": None, "peer": None, "bytes": 0, "early": None, "identity": None, "error": None}
    conn = None
    # The register begins with this process. Its key counts as made afterwards, unless --key-age says otherwise; the
    # previous one is older than the register in any case.
    register = rules.StrikeRegister(me.now()) if args.early == "accept" else None
    key_made = me.now() + 1 - 1000 * args.key_age
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
    app = EchoServer(args.drain)
    fault: Optional[pm.ProtocolError] = None  # in early data, P3 or flight 3
    try:
        hs = pm.Responder([args.key] + ([args.previous] if args.previous else []), os.urandom(32), os.urandom(32), not args.no_fallback)
        takes = lambda p: pm.VERSION in p.versions and any(s in p.suites for s in me.suites)
        raw = hs.read_m1(wire.read(pm.M1_LEN), takes)
        if raw is not None:
            p = pm.decode_payload("P1", raw)
            suite, i2r_size = next(s for s in me.suites if s in p.suites), 1
            mux, flags = Mux(1, me.limits, p.limits), pm.DECIDES if args.decides else 0
            if p.flags & pm.EARLY:
                made = key_made if hs.s == args.key else 0
                accepted = rules.accepts_early(register, hs.ei, p, me.now(), made)
                out["early"] = "accepted" if accepted else "refused"
                flags |= pm.EARLY if accepted else 0
            area = b""
            if flags & pm.EARLY:
                try:
                    mux.receive(rules.decode_early(p.area), record=False)
                    app(mux)
                    area = mux.fill(48, rules.ANSWERS)
                except pm.ProtocolError as e:
                    fault = e
            wire.write(hs.m2(pm.encode_payload("P2-IK", me.tlvs(b"\1", bytes([suite]), flags, static=hs.s), area)))
        else:
            wire.write(hs.m2(pm.encode_payload("P2-fallback", me.tlvs(b"\1\xe1", me.suites + b"\xe2", pm.DECIDES if args.decides else 0))))
            p = pm.decode_payload("P3", hs.read_flight3(wire.read(pm.F3_LEN)))
            if not pm.chosen_from(b"\1", me.suites, p):
                raise pm.HandshakeFailed("the choice was not offered")
            suite, i2r_size = p.suites[0], (p.header & 15) + 1
            pm.check_size_of_first(p.header, me.limits[pm.MAX_RECORD])
            me.not_oneself(hs.si)
            mux = Mux(1, me.limits, p.limits)
        secrets = pm.derive(hs.state.h, hs.state.ck, suite)
        shaping = rules.agree(me.limits, p.limits)
        conn = Connection(wire, secrets, False, hs.mode, mux, shaping, i2r_size, keepalive=args.keepalive / 1000)
        out |= {"mode": hs.mode, "peer": hs.si.hex(), "suite": suite, "h": secrets.h.hex(), "anonymous": bool(p.flags & pm.ANONYMOUS)}
        try:
            if raw is not None:
                if out["early"] == "accepted" and not fault and not shaping.mode and any(s.sendable() for s in mux.streams.values()):
                    conn.send_record(only=rules.ANSWERS)
                    conn.burst = 0
                out["early_answered"] = mux.sent
                frames = conn.open_record()
                me.not_oneself(hs.si)
                if fault:
                    raise fault
                mux.receive(frames)
            else:
                frames = pm.decode_area(p.area)
                pm.check_end(p.header, frames)
                mux.receive(frames, record=False)
        except pm.ProtocolError as e:
            conn.fail(e)
        if args.refuse_shaping and shaping.mode:
            conn.close(1, SHAPING_REFUSED)
            conn.finish()
        else:
            if args.decides:
                mux.control.insert(0, pm.Frame("SETTINGS", {"settings": []}))
            me.attest_by_frame(mux, hs.s)
            conn.flight3_done()
            conn.run(app)
        out["bytes"] = mux.received
        out["identity"] = me.identity(hs.si, p.attestation, mux.attestation)
        out["ok"] = mux.peer_close is not None
    except (pm.HandshakeFailed, pm.Malformed) as e:
        out["error"] = f"handshake failed: {e}"
        wire.discard(HANDSHAKE - (time.monotonic() - started))
    except (pm.AuthFailed, pm.ProtocolError, Gone) as e:
        out["error"] = f"{type(e).__name__}: {e}"
    sock.close()
    report(conn, **out)
    return 0 if out["ok"] else 1


# ---- the command line ----

def key(text: str) -> bytes:
    raw = bytes.fromhex(text)
    if len(raw) != 32:
        raise argparse.ArgumentTypeError("32 bytes of hexadecimal")
    return raw


class Attest(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        namespace.attest = (key(values[0]), int(values[1]))


def shaping(text: str) -> rules.Shaping:
    """bucketed, or constant:QUANTA:MICROSECONDS."""
    if text == "bucketed":
        return rules.Shaping(rules.BUCKETED)
    mode, size, interval = text.split(":")
    out = rules.Shaping(rules.CONSTANT, int(size), int(interval))
    if mode != "constant" or not 1 <= out.size <= 16 or not pm.shaping_valid(out.setting()):
        raise argparse.ArgumentTypeError("bucketed or constant:QUANTA:MICROSECONDS")
    return out


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
    d.add_argument("--early", action="store_true", help="two more requests, of 300 and 3000 bytes, begin in early data; needs --known or --hint")
    li = sub.add_parser("listen")
    li.add_argument("port", type=int)
    li.add_argument("--host", default="127.0.0.1")
    li.add_argument("--previous", type=key, help="the previous static private key")
    li.add_argument("--no-fallback", action="store_true")
    li.add_argument("--decides", action="store_true", help="say that this side decides about the initiator, and then that it has accepted")
    li.add_argument("--early", choices=("accept", "refuse"), default="refuse", help="what to do with early data")
    li.add_argument("--key-age", type=int, default=0, metavar="SECONDS", help="--key is that much older than the strike register")
    li.add_argument("--drain", action="store_true", help="send DRAIN once a stream is open")
    for p in (d, li):
        p.add_argument("--key", type=key, required=True, help="the own static private key")
        p.add_argument("--suite", type=int, choices=(1, 2), default=1, help="the preferred suite")
        p.add_argument("--attest", nargs=2, action=Attest, metavar=("SEED", "NOT_AFTER"), help="attest the static key with this Ed25519 seed, until that second")
        p.add_argument("--attest-frame", action="store_true", help="send the attestation in a frame")
        p.add_argument("--verify", action="store_true", help="verify the peer's attestation and report its identity")
        p.add_argument("--clock", type=int, default=0, metavar="SECONDS", help="run the own wall clock ahead")
        p.add_argument("--idle", type=int, default=0, metavar="MS", help="the own IDLE_TIMEOUT")
        p.add_argument("--keepalive", type=int, default=0, metavar="MS", help="the longest time without a record of one's own")
        p.add_argument("--shaping", type=shaping, default=rules.Shaping(), help=shaping.__doc__)
        p.add_argument("--refuse-shaping", action="store_true", help="close with SHAPING_REFUSED if any shaping holds")
    args = top.parse_args()
    if args.what == "dial" and args.early and not (args.known or args.hint):
        d.error("--early needs --known or --hint")
    return dial(args) if args.what == "dial" else listen(args)


if __name__ == "__main__":
    sys.exit(main())
