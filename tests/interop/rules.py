"""Rules of peermux/1 that need no connection: attestations (section 4.5), accepting early data (section 6), and shaping (section 19)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from peermux import VERSION, Payload, ProtocolError, SHAPING, MAX_RECORD, Frame, decode_area

# ---- attestations (section 4.5) ----

INITIATOR, RESPONDER = 0, 1


def _attested(static: bytes, role: int, not_after: bytes) -> bytes:
    return b"peermux/1 static\0" + bytes([role]) + static + not_after


def attest(seed: bytes, not_after: int, static: bytes, role: int) -> bytes:
    """An attestation of scheme 1 for the public static key `static`. `seed` is the Ed25519 private key, not_after in seconds."""
    private, until = Ed25519PrivateKey.from_private_bytes(seed), not_after.to_bytes(8, "big")
    return b"\1" + private.public_key().public_bytes_raw() + until + private.sign(_attested(static, role, until))


# The y of the points of order 8; those of order 1, 2 and 4 are 1, -1 and 0 (section 4.5).
P25519 = 2**255 - 19
ORDER_8 = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")


def small_order(point: bytes) -> bool:
    y = (int.from_bytes(point, "little") & (1 << 255) - 1) % P25519
    return y in (0, 1, P25519 - 1, ORDER_8, P25519 - ORDER_8)


def identity(attestation: Optional[bytes], static: bytes, role: int, now: Optional[int]) -> Optional[bytes]:
    """The Ed25519 key that the attestation binds to `static`, or None if it binds nothing. `now` in seconds, None without a clock."""
    if attestation is None or len(attestation) != 105 or attestation[0] != 1:
        return None
    who, until, signature = attestation[1:33], attestation[33:41], attestation[41:]
    if now is None or now > int.from_bytes(until, "big"):
        return None
    try:
        # OpenSSL uses the equation without the cofactor and refuses S that is too large, but takes points of small order.
        if small_order(who) or small_order(signature[:32]):
            return None
        Ed25519PublicKey.from_public_bytes(who).verify(signature, _attested(static, role, until))
    except (InvalidSignature, ValueError):
        return None
    return who


# ---- early data (section 6) ----

WINDOW, WARM_UP = 60_000, 120_000  # milliseconds
# What a responder may say before flight 3; padding and frames that are skipped do no harm.
ANSWERS = frozenset({"STREAM", "RESET", "STOP", "MAX_STREAM_DATA"})


@dataclass
class StrikeRegister:
    """All times are milliseconds since 1970. An entry lives until the TIMESTAMP plus 60 s has passed."""
    started: int
    capacity: int = 1024
    entries: dict[bytes, int] = field(default_factory=dict)  # the TIMESTAMP of each e_i
    clock: int = 0  # it never goes back
    floor: int = -1  # no TIMESTAMP up to this one is acceptable, since entries were dropped
    band: Optional[tuple[int, int]] = None  # nor any of these, which are ahead of the clock

    def take(self, ephemeral: bytes, timestamp: Optional[int], now: int, key_made: int) -> bool:
        """Checks and enters in one step. A young register enters what it refuses, since its frames come again in flight 3 and
        should not be accepted here afterwards."""
        now = self.clock = max(self.clock, now)
        self.entries = {e: t for e, t in self.entries.items() if t + WINDOW >= now}
        if self.band and self.band[1] <= now:
            self.floor, self.band = max(self.floor, self.band[1]), None
        if timestamp is None or abs(now - timestamp) > WINDOW or ephemeral in self.entries:
            return False
        if timestamp <= self.floor or (self.band and self.band[0] <= timestamp <= self.band[1]) or not self._room(timestamp):
            return False
        self.entries[ephemeral] = timestamp
        return now - self.started >= WARM_UP or self.started < key_made

    def _room(self, timestamp: int) -> bool:
        """Drops the entry that is farthest from the clock if the new one is nearer. Of two that are equally far the later one goes."""
        if len(self.entries) < self.capacity:
            return True

        def rank(t: int) -> tuple[int, int]:
            return abs(t - self.clock), t
        victim = max(self.entries, key=lambda e: rank(self.entries[e]), default=None)
        if victim is None or rank(self.entries[victim]) <= rank(timestamp):
            return False
        t = self.entries.pop(victim)
        if t <= self.clock:
            self.floor = max(self.floor, t)
        else:
            low, high = self.band or (t, t)
            self.band = min(low, t), max(high, t)
        return True


def accepts_early(register: Optional[StrikeRegister], ephemeral: bytes, p1: Payload, now: int, key_made: int) -> bool:
    """`register` is None where early data is not configured. The version chosen is always 1. `key_made` is of the key that opened P1. The register learns of each P1 with EARLY, whatever else holds."""
    return register is not None and register.take(ephemeral, p1.timestamp, now, key_made) and p1.versions[0] == VERSION


def decode_early(area: bytes) -> list[Frame]:
    """The frames of accepted early data. Raises ProtocolError, which waits for flight 3."""
    frames = decode_area(area)
    for fr in frames:
        if fr.kind not in ("OPEN", "STREAM", "SKIPPABLE"):
            raise ProtocolError("FRAME_NOT_ALLOWED", f"{fr.kind} in early data")
    return frames


def decode_answers(area: bytes, accepted: bool) -> list[Frame]:
    """The frames of P2 in IK, which nobody looks at where no early data was accepted."""
    frames = decode_area(area) if accepted else []
    for fr in frames:
        if fr.kind not in ANSWERS | {"SKIPPABLE"}:
            raise ProtocolError("FRAME_NOT_ALLOWED", f"{fr.kind} in P2")
    return frames


# ---- shaping (section 19) ----

QUANTISED, BUCKETED, CONSTANT = range(3)


@dataclass(frozen=True)
class Shaping:
    mode: int = QUANTISED
    size: int = 1  # quanta of each record, for CONSTANT
    interval: int = 0  # microseconds, for CONSTANT

    def setting(self) -> int:
        return self.mode | self.size - 1 << 4 | self.interval << 8

    @staticmethod
    def from_setting(v: int) -> Shaping:
        """Of a value that is in range (peermux.shaping_valid)."""
        return Shaping(v & 15, (v >> 4 & 15) + 1, v >> 8)


def agree(mine: dict[int, int], theirs: dict[int, int]) -> Shaping:
    """What holds, from the settings of both sides."""
    a, b = (Shaping.from_setting(s[SHAPING]) for s in (mine, theirs))
    if a.mode != b.mode or a.mode != CONSTANT:
        held = max(a, b, key=lambda s: s.mode)
    else:
        held = Shaping(CONSTANT, max(a.size, b.size), min(a.interval, b.interval))
    return Shaping(held.mode, min(held.size, mine[MAX_RECORD], theirs[MAX_RECORD]), held.interval)


def padme(quanta: int) -> int:
    """Section 19.3: the quanta of a burst with its padding."""
    if quanta < 2:
        return quanta
    e = quanta.bit_length() - 1
    s = e.bit_length()  # floor(log2 e) + 1
    multiple = 1 << max(0, e - s)
    return -(-quanta // multiple) * multiple
