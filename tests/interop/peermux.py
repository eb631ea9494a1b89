"""peermux/1 written from docs/spec.md alone: encodings, handshake, key schedule and records.

Nothing here does input or output; randomness always comes from the caller. Not written for speed or for
constant time: it is a second opinion on the specification, not a library."""

from __future__ import annotations

import hashlib
import hmac as _hmac
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from kyber_py.ml_kem import ML_KEM_768

Q = 1408
M1_LEN, M2_LEN, F3_LEN = 2 * Q, Q, Q
FLIGHT3_AREA = 1136
VARINT_MAX = 2**62 - 1
PROLOGUE = b"peermux/1"
IK_NAME = b"Noise_IKchfs_25519+MLKEM768_ChaChaPoly_BLAKE2b"
FALLBACK_NAME = b"Noise_XXfallback+chfs_25519+MLKEM768_ChaChaPoly_BLAKE2b"
VERSION, CHACHA, AES = 1, 1, 2

CODES = ["NO_ERROR", "INTERNAL", "FRAME_ENCODING", "FRAME_UNKNOWN", "FRAME_NOT_ALLOWED", "STREAM_STATE", "STREAM_LIMIT",
         "STREAM_ID", "FLOW_CONTROL", "SETTINGS_INVALID", "RECORD_INVALID", "KEY_LIMIT", "EXCESSIVE_LOAD", "REFUSED",
         "DECISION_TIMEOUT", "IDLE_TIMEOUT", "SHAPING_REFUSED", "DUPLICATE", "GOING_AWAY", "UNKNOWN_PROTOCOL", "CANCELLED"]


class Malformed(Exception):
    """An encoding is wrong; whoever holds it decides what that means."""


class HandshakeFailed(Exception):
    """Section 13.1: the connection fails in silence."""


class AuthFailed(Exception):
    """Section 13.5: a record does not authenticate."""


class ProtocolError(Exception):
    """Section 13.6: answered by CLOSE with a code of section 14."""

    def __init__(self, name: str, why: str = "") -> None:
        super().__init__(f"{name}: {why}" if why else name)
        self.name, self.code = name, CODES.index(name)


# ---- varints (section 1.1) ----

def varint(v: int) -> bytes:
    for i, bits in enumerate((6, 14, 30, 62)):
        if v < 1 << bits:
            return (v | i << bits).to_bytes(1 << i, "big")
    raise ValueError("varint too large")


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.pos = data, 0

    def left(self) -> int:
        return len(self.data) - self.pos

    def take(self, n: int) -> bytes:
        if n > self.left():
            raise Malformed("truncated")
        self.pos += n
        return self.data[self.pos - n:self.pos]

    def u8(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        first = self.u8()
        i = first >> 6
        raw = bytes([first & 0x3F]) + self.take((1 << i) - 1)
        v = int.from_bytes(raw, "big")
        if len(varint(v)) != 1 << i:
            raise Malformed("varint not in shortest form")
        return v


# ---- settings (section 4.4) ----

MAX_RECORD, INITIAL_MAX_DATA, INITIAL_MAX_STREAM_DATA, INITIAL_MAX_STREAMS, IDLE_TIMEOUT, SHAPING = range(1, 7)
RANGES = {MAX_RECORD: (1, 16, 1), INITIAL_MAX_DATA: (2048, VARINT_MAX, 2048),
          INITIAL_MAX_STREAM_DATA: (2048, VARINT_MAX, 2048), INITIAL_MAX_STREAMS: (16, 2**60, 16),
          IDLE_TIMEOUT: (0, VARINT_MAX, 0), SHAPING: (0, VARINT_MAX, 0)}
Settings = list[tuple[int, int]]


def encode_settings(settings: Settings) -> bytes:
    return b"".join(varint(i) + varint(v) for i, v in settings)


def decode_settings(data: bytes) -> Settings:
    """The syntax only; see check_settings."""
    r = Reader(data)
    out: Settings = []
    while r.left():
        i = r.varint()
        out.append((i, r.varint()))
    return out


def check_settings(settings: Settings) -> dict[int, int]:
    """The values that hold, for the ids of section 4.4. Raises SETTINGS_INVALID."""
    out = {i: absent for i, (_, _, absent) in RANGES.items()}
    seen = set()
    for i, v in settings:
        if i not in RANGES:
            continue
        low, high, _ = RANGES[i]
        if i in seen or not low <= v <= high or (i == SHAPING and not shaping_valid(v)):
            raise ProtocolError("SETTINGS_INVALID", f"setting {i} = {v}")
        seen.add(i)
        out[i] = v
    return out


def shaping_valid(v: int) -> bool:
    mode, interval = v & 15, v >> 8
    return v < 16 if mode < 2 else mode == 2 and 1000 <= interval <= 10_000_000


# ---- frames (section 9) ----

@dataclass(frozen=True)
class Frame:
    """`kind` is the name of the frame's type; `f` holds its fields under the names of section 9 (see LAYOUT)."""
    kind: str
    f: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["f"][name]
        except KeyError:
            raise AttributeError(name) from None


LAYOUT: dict[str, tuple[int, tuple[tuple[str, str], ...]]] = {
    "PING": (0x01, (("data", "8"),)), "PONG": (0x02, (("data", "8"),)),
    "MAX_DATA": (0x03, (("maximum", "v"),)), "MAX_STREAM_DATA": (0x04, (("stream", "v"), ("maximum", "v"))),
    "MAX_STREAMS": (0x05, (("maximum", "v60"), ("window", "v"))),
    "RESET": (0x06, (("stream", "v"), ("layer", "layer"), ("code", "v"))),
    "STOP": (0x07, (("stream", "v"), ("layer", "layer"), ("code", "v"))),
    "OPEN": (0x08, (("stream", "v"), ("priority", "priority"), ("window", "v"), ("name", "name"))),
    "PRIORITY": (0x09, (("stream", "v"), ("priority", "priority"))),
    "CLOSE": (0x0A, (("layer", "layer"), ("code", "v"), ("reason", "reason"))),
    "DRAIN": (0x0B, (("code", "v"),)), "SETTINGS": (0x0C, (("settings", "settings"),)),
    "ATTESTATION": (0x0D, (("attestation", "attestation"),)),
}
BY_TYPE = {t: kind for kind, (t, _) in LAYOUT.items()}


def stream_frame(stream: int, payload: bytes, fin: bool = False, length: bool = True) -> Frame:
    return Frame("STREAM", {"stream": stream, "fin": fin, "len": length, "payload": payload})


def _lp(b: bytes) -> bytes:
    return varint(len(b)) + b


def encode_frame(fr: Frame) -> bytes:
    """Encodes without checking limits, so that it can also make what must be refused."""
    if fr.kind == "PADDING":
        return b"\0"
    if fr.kind == "STREAM":
        head = bytes([0x10 | fr.fin | fr.len << 1]) + varint(fr.stream)
        return head + (_lp(fr.payload) if fr.len else fr.payload)
    if fr.kind == "SKIPPABLE":
        return varint(fr.type) + _lp(fr.bytes)
    typ, fields = LAYOUT[fr.kind]
    out = varint(typ)
    for name, how in fields:
        if how == "name":
            form = fr.form
            out += varint(0) if form == "none" else varint(3 + fr.index) if form == "index" else \
                varint(1 if form == "new" else 2) + _lp(fr.name.encode())
            continue
        v = fr.f[name]
        if how in ("v", "v60"):
            out += varint(v)
        elif how in ("layer", "priority"):
            out += bytes([v])
        elif how == "8":
            out += v
        elif how == "reason":
            out += _lp(v.encode())
        elif how == "settings":
            out += _lp(encode_settings(v))
        else:
            out += _lp(v)
    return out


def _field(r: Reader, name: str, how: str) -> dict[str, Any]:
    def need(ok: bool, why: str) -> None:
        if not ok:
            raise Malformed(why)
    if how in ("v", "v60"):
        v: Any = r.varint()
        need(how == "v" or v <= 2**60, "above 2^60")
    elif how == "8":
        v = r.take(8)
    elif how == "layer":
        v = r.u8()
        need(v <= 1, "layer")
    elif how == "priority":
        v = r.u8()
        need(v < 16, "priority")
    elif how == "name":
        form = r.varint()
        if form == 0:
            return {"form": "none"}
        if form >= 3:
            return {"form": "index", "index": form - 3}
        length = r.varint()
        need(1 <= length <= 64, "length of a name")
        raw = r.take(length)
        need(all(0x21 <= b <= 0x7E for b in raw), "character in a name")
        return {"form": "new" if form == 1 else "once", "name": raw.decode()}
    else:
        length = r.varint()
        need(how != "reason" or length <= 256, "length of a reason")
        need(how != "attestation" or 1 <= length <= 1024, "length of an attestation")
        v = r.take(length)
        if how == "reason":
            try:
                v = v.decode("utf-8")
            except UnicodeDecodeError:
                raise Malformed("reason is not UTF-8") from None
        elif how == "settings":
            v = decode_settings(v)
    return {name: v}


def decode_frame(r: Reader) -> Frame:
    """One frame from the rest of a frame area. Raises ProtocolError."""
    try:
        typ = r.varint()
        if typ == 0:
            return Frame("PADDING")
        if typ in BY_TYPE:
            kind, out = BY_TYPE[typ], {}
            for name, how in LAYOUT[kind][1]:
                out.update(_field(r, name, how))
            if kind == "SETTINGS":
                if any(i in RANGES for i, _ in out["settings"]):
                    raise ProtocolError("SETTINGS_INVALID", "a handshake setting in a frame")
            return Frame(kind, out)
        if 0x10 <= typ <= 0x13:
            stream = r.varint()
            payload = r.take(r.varint() if typ & 2 else r.left())
            return stream_frame(stream, payload, bool(typ & 1), bool(typ & 2))
        if 0x40 <= typ <= 0x3FFF:
            return Frame("SKIPPABLE", {"type": typ, "bytes": r.take(r.varint())})
    except Malformed as e:
        raise ProtocolError("FRAME_ENCODING", str(e)) from None
    raise ProtocolError("FRAME_UNKNOWN", hex(typ))


def decode_area(area: bytes) -> list[Frame]:
    """All frames of a frame area, without PADDING. CLOSE must be the last."""
    r = Reader(area)
    out: list[Frame] = []
    while r.left():
        fr = decode_frame(r)
        if fr.kind == "PADDING":
            if any(r.take(r.left())):
                raise ProtocolError("RECORD_INVALID", "padding is not zero")
            break
        if out and out[-1].kind == "CLOSE":
            raise ProtocolError("FRAME_NOT_ALLOWED", "a frame after CLOSE")
        out.append(fr)
    return out


def encode_frames(frames: list[Frame]) -> bytes:
    return b"".join(map(encode_frame, frames))


# ---- payloads (section 4) ----

T_VERSIONS, T_SUITES, T_FLAGS, T_TIMESTAMP, T_SETTINGS, T_ATTESTATION = range(1, 7)
ANONYMOUS, EARLY, DECIDES = 1, 2, 4
MAX_TLVS = 205
#        bytes, frame area, has a header, is a choice
KINDS = {"P1": (1536, FLIGHT3_AREA, False, False), "P2-IK": (256, 48, False, True),
         "P2-fallback": (208, 0, False, False), "P3": (1344, FLIGHT3_AREA, True, True)}
Tlvs = list[tuple[int, bytes]]


@dataclass
class Payload:
    """A decoded payload. `area` is the frame area, still unparsed: early data may have to stay so."""
    versions: bytes
    suites: bytes
    flags: int
    timestamp: Optional[int]
    settings: Settings
    attestation: Optional[bytes]
    header: int
    area: bytes
    limits: dict[int, int]


def encode_payload(kind: str, tlvs: Tlvs, area: bytes = b"", header: int = 0) -> bytes:
    size, area_size, has_header, _ = KINDS[kind]
    body = b"".join(bytes([t, len(v)]) + v for t, v in tlvs)
    assert len(area) <= area_size
    out = (bytes([header]) if has_header else b"") + len(body).to_bytes(2, "big") + body + area
    return out.ljust(size, b"\0")


def decode_payload(kind: str, data: bytes) -> Payload:
    """Raises Malformed for every breach of section 4."""
    size, area_size, has_header, choice = KINDS[kind]
    assert len(data) == size
    r = Reader(data)
    header = r.u8() if has_header else 0
    try:
        check_header(header, 16)
    except ProtocolError as e:
        raise Malformed(str(e)) from None
    if header & KEY_UPDATE:
        raise Malformed("key update in P3")
    tlv_len = int.from_bytes(r.take(2), "big")
    if tlv_len > MAX_TLVS:
        raise Malformed("tlv_len")
    t, seen = Reader(r.take(tlv_len)), {}
    while t.left():
        typ = t.u8()
        value = t.take(t.u8())
        if T_VERSIONS <= typ <= T_ATTESTATION:
            if typ in seen:
                raise Malformed("a TLV occurs twice")
            seen[typ] = value
    area = r.take(area_size)
    if any(r.take(r.left())):
        raise Malformed("bytes after the frame area")
    lengths = {T_VERSIONS: (1, 1 if choice else 255), T_SUITES: (1, 1 if choice else 255), T_FLAGS: (1, 1),
               T_TIMESTAMP: (8, 8), T_ATTESTATION: (1, 112)}
    if kind != "P1":
        seen.pop(T_TIMESTAMP, None)  # not listed for this payload, so it is ignored
    for typ, (low, high) in lengths.items():
        if typ in seen and not low <= len(seen[typ]) <= high:
            raise Malformed(f"length of TLV {typ}")
    if T_VERSIONS not in seen or T_SUITES not in seen:
        raise Malformed("no VERSIONS or no SUITES")
    settings = decode_settings(seen.get(T_SETTINGS, b""))
    try:
        limits = check_settings(settings)
    except ProtocolError as e:
        raise Malformed(str(e)) from None
    ts = seen.get(T_TIMESTAMP)
    return Payload(seen[T_VERSIONS], seen[T_SUITES], seen.get(T_FLAGS, b"\0")[0],
                   None if ts is None else int.from_bytes(ts, "big"), settings, seen.get(T_ATTESTATION), header, area, limits)


def offered(p: Payload) -> bool:
    """Does this offer hold a version and a suite that this implementation takes? It always takes suites 1 and 2."""
    return VERSION in p.versions and any(s in p.suites for s in (CHACHA, AES))


def chosen_from(offer_versions: bytes, offer_suites: bytes, choice: Payload) -> bool:
    return choice.versions[0] in offer_versions and choice.suites[0] in offer_suites \
        and choice.versions[0] == VERSION and choice.suites[0] in (CHACHA, AES)


# ---- primitives and the symmetric state (section 3.2) ----

def blake2b(data: bytes, size: int = 64) -> bytes:
    return hashlib.blake2b(data, digest_size=size).digest()


def hmac(key: bytes, data: bytes) -> bytes:
    return _hmac.new(key, data, hashlib.blake2b).digest()


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def dh(private: bytes, pub: bytes) -> bytes:
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(pub))
    except ValueError:  # what the library raises for an all-zero result
        raise HandshakeFailed("all-zero DH result") from None


def kem_keys(seed: bytes) -> tuple[bytes, bytes]:
    """seed is d ‖ z, 64 bytes; the result is encapsulation key, decapsulation key."""
    return ML_KEM_768.key_derive(seed)


def kem_check(ek: bytes) -> bool:
    """The modulus check of FIPS 203, section 7.2: every 12-bit coefficient is below 3329."""
    return all((n := int.from_bytes(ek[i:i + 3], "little")) & 0xFFF < 3329 and n >> 12 < 3329 for i in range(0, 1152, 3))


def aead(suite: int, key: bytes, n: int) -> tuple[Any, bytes]:
    if suite == AES:
        return AESGCM(key), bytes(4) + n.to_bytes(8, "big")
    return ChaCha20Poly1305(key), bytes(4) + n.to_bytes(8, "little")


def seal(suite: int, key: bytes, n: int, aad: bytes, plain: bytes) -> bytes:
    cipher, nonce = aead(suite, key, n)
    return cipher.encrypt(nonce, plain, aad)


def unseal(suite: int, key: bytes, n: int, aad: bytes, data: bytes) -> bytes:
    cipher, nonce = aead(suite, key, n)
    try:
        return cipher.decrypt(nonce, data, aad)
    except InvalidTag:
        raise AuthFailed("tag") from None


class SymmetricState:
    def __init__(self, name: bytes) -> None:
        self.h = self.ck = name.ljust(64, b"\0")
        self.k, self.n = b"", 0

    def mix_hash(self, data: bytes) -> None:
        self.h = blake2b(self.h + data)

    def mix_key(self, ikm: bytes) -> None:
        temp = hmac(self.ck, ikm)
        self.ck = hmac(temp, b"\x01")
        self.k, self.n = hmac(temp, self.ck + b"\x02")[:32], 0

    def encrypt_and_hash(self, plain: bytes) -> bytes:
        out = seal(CHACHA, self.k, self.n, self.h, plain)
        self.n += 1
        self.mix_hash(out)
        return out

    def decrypt_and_hash(self, data: bytes) -> bytes:
        try:
            out = unseal(CHACHA, self.k, self.n, self.h, data)
        except AuthFailed:
            raise HandshakeFailed("does not authenticate") from None
        self.n += 1
        self.mix_hash(data)
        return out


def ik_state(rs: bytes) -> SymmetricState:
    st = SymmetricState(IK_NAME)
    st.mix_hash(PROLOGUE)
    st.mix_hash(rs)
    return st


def fallback_state(m1: bytes) -> SymmetricState:
    st = SymmetricState(FALLBACK_NAME)
    st.mix_hash(PROLOGUE + blake2b(m1, 32))
    st.mix_hash(m1[:32])
    st.mix_hash(m1[32:1216])
    return st


# ---- key schedule (section 5) ----

@dataclass
class Secrets:
    h: bytes
    ck: bytes
    suite: int
    i2r: bytes
    r2i: bytes
    exporter: bytes
    ratchet: bytes

    def export(self, label: bytes, context: bytes, length: int) -> bytes:
        info = bytes([len(label)]) + label + blake2b(context)
        out, block = b"", b""
        while len(out) < length:
            block = hmac(self.exporter, block + info + bytes([len(out) // 64 + 1]))
            out += block
        return out[:length]


def derive(h: bytes, ck: bytes, suite: int) -> Secrets:
    k = [hmac(ck, b"peermux/1 " + label + bytes([0, suite]) + h)[:32] for label in (b"i2r", b"r2i", b"exporter", b"ratchet")]
    return Secrets(h, ck, suite, *k)


# ---- the handshake (sections 3.4 to 3.8) ----

class Initiator:
    """m1() or m1_unknown(), then read_m2(), then in fallback flight3(); state is the SymmetricState of the mode."""

    def __init__(self, s: bytes, e: bytes, kem_seed: bytes, rs: Optional[bytes]) -> None:
        self.s, self.e, self.rs = s, e, rs
        self.ek, self.dk = kem_keys(kem_seed)
        self.mode = ""
        self.ik: Optional[SymmetricState] = None

    def m1(self, p1: bytes) -> bytes:
        assert self.rs is not None
        st = ik_state(self.rs)
        st.mix_hash(public(self.e))
        st.mix_hash(self.ek)
        st.mix_key(dh(self.e, self.rs))
        enc_s = st.encrypt_and_hash(public(self.s))
        st.mix_key(dh(self.s, self.rs))
        self._m1 = public(self.e) + self.ek + enc_s + st.encrypt_and_hash(p1)
        self.ik = st
        return self._m1

    def m1_unknown(self, filler: bytes) -> bytes:
        assert len(filler) == 1600
        self._m1 = public(self.e) + self.ek + filler
        return self._m1

    def _start_m2(self, st: SymmetricState, m2: bytes) -> bytes:
        er = m2[:32]
        st.mix_hash(er)
        st.mix_key(dh(self.e, er))
        ct = st.decrypt_and_hash(m2[32:1136])
        st.mix_key(ML_KEM_768.decaps(self.dk, ct))
        return er

    def read_m2(self, m2: bytes) -> bytes:
        """The plaintext of P2; sets mode and rs."""
        if self.ik is not None:
            try:
                er = self._start_m2(self.ik, m2)
                self.ik.mix_key(dh(self.s, er))
                p2 = self.ik.decrypt_and_hash(m2[1136:])
                self.mode, self.state = "ik", self.ik
                return p2
            except HandshakeFailed:
                pass
        st = fallback_state(self._m1)
        self.er = self._start_m2(st, m2)
        self.rs = st.decrypt_and_hash(m2[1136:1184])
        st.mix_key(dh(self.e, self.rs))
        p2 = st.decrypt_and_hash(m2[1184:])
        self.mode, self.state = "fallback", st
        return p2

    def flight3(self, p3: bytes) -> bytes:
        enc_s = self.state.encrypt_and_hash(public(self.s))
        self.state.mix_key(dh(self.s, self.er))
        return enc_s + self.state.encrypt_and_hash(p3)


class Responder:
    """read_m1(), m2(), then in fallback read_flight3(). `statics` holds the current private key, then the previous."""

    def __init__(self, statics: list[bytes], e: bytes, kem_random: bytes, may_fall_back: bool = True) -> None:
        self.statics, self.e, self.kem_random, self.may_fall_back = statics, e, kem_random, may_fall_back
        self.s, self.mode = statics[0], ""

    def _trial(self, s: bytes, m1: bytes, taken: Callable[[Payload], bool]) -> Optional[tuple[SymmetricState, bytes, bytes]]:
        st = ik_state(public(s))
        st.mix_hash(m1[:32])
        st.mix_hash(m1[32:1216])
        try:
            st.mix_key(dh(s, m1[:32]))
            si = st.decrypt_and_hash(m1[1216:1264])
            st.mix_key(dh(s, si))
            p1 = st.decrypt_and_hash(m1[1264:])
            return (st, si, p1) if taken(decode_payload("P1", p1)) else None
        except (HandshakeFailed, Malformed):
            return None

    def read_m1(self, m1: bytes, taken: Callable[[Payload], bool] = offered) -> Optional[bytes]:
        """The plaintext of P1 in IK, None in fallback; sets mode."""
        if not kem_check(m1[32:1216]):
            raise HandshakeFailed("invalid encapsulation key")
        self.ei, self.ek = m1[:32], m1[32:1216]
        trials = [(s, self._trial(s, m1, taken)) for s in self.statics]
        for s, won in trials:
            if won:
                self.mode, self.s = "ik", s
                self.state, self.si, p1 = won
                return p1
        if not self.may_fall_back:
            raise HandshakeFailed("no fallback")
        self.mode, self.s, self.state = "fallback", self.statics[0], fallback_state(m1)
        return None

    def m2(self, p2: bytes) -> bytes:
        st = self.state
        st.mix_hash(public(self.e))
        st.mix_key(dh(self.e, self.ei))
        secret, ct = ML_KEM_768._encaps_internal(self.ek, self.kem_random)
        out = public(self.e) + st.encrypt_and_hash(ct)
        st.mix_key(secret)
        if self.mode == "ik":
            st.mix_key(dh(self.e, self.si))
        else:
            out += st.encrypt_and_hash(public(self.s))
            st.mix_key(dh(self.s, self.ei))
        return out + st.encrypt_and_hash(p2)

    def read_flight3(self, flight3: bytes) -> bytes:
        self.si = self.state.decrypt_and_hash(flight3[:48])
        self.state.mix_key(dh(self.e, self.si))
        return self.state.decrypt_and_hash(flight3[48:])


# ---- records (section 8) ----

KEY_UPDATE, END = 0x10, 0x20
KEY_RECORDS = 65_536


def header(next_size: int = 1, key_update: bool = False, end: bool = False) -> int:
    return next_size - 1 | (KEY_UPDATE if key_update else 0) | (END if end else 0)


class Direction:
    """The key and the counter of one direction."""

    def __init__(self, suite: int, key: bytes, size: int = 1, n: int = 0) -> None:
        self.suite, self.key, self.size, self.n, self.used = suite, key, size, n, 0

    def _after(self, head: int) -> None:
        self.n, self.used, self.size = self.n + 1, self.used + 1, (head & 15) + 1
        if head & KEY_UPDATE:
            self.key, self.used = seal(self.suite, self.key, 2**64 - 1, b"", bytes(32))[:32], 0

    def room(self) -> int:
        return self.size * Q - 17

    def seal(self, head: int, area: bytes) -> bytes:
        """The next record. Its size is the one announced before; area is padded with zeros."""
        assert len(area) <= self.room()
        out = seal(self.suite, self.key, self.n, b"", (bytes([head]) + area).ljust(self.size * Q - 16, b"\0"))
        self._after(head)
        return out

    def open(self, record: bytes, max_record: int, area_size: Optional[int] = None) -> tuple[int, list[Frame]]:
        """Header and frames. area_size is 1136 for i2r record 0 in IK. Raises AuthFailed, ProtocolError."""
        assert len(record) == self.size * Q
        plain = unseal(self.suite, self.key, self.n, b"", record)
        if self.used >= KEY_RECORDS:
            raise ProtocolError("KEY_LIMIT")
        head, area = plain[0], plain[1:]
        check_header(head, max_record)
        if area_size is not None:
            if any(area[area_size:]):
                raise ProtocolError("RECORD_INVALID", "bytes after the frame area")
            area = area[:area_size]
        frames = decode_area(area)
        check_end(head, frames)
        self._after(head)
        return head, frames


def check_header(head: int, max_record: int) -> None:
    if head & 0xC0:
        raise ProtocolError("RECORD_INVALID", "reserved bits")
    if (head & 15) + 1 > max_record:
        raise ProtocolError("RECORD_INVALID", "announcement above MAX_RECORD")
    if head & END and head & 0x1F:
        raise ProtocolError("RECORD_INVALID", "end bit with an announcement or a key update")


def check_size_of_first(head: int, max_record: int) -> None:
    """The size of i2r record 0 in fallback, which the header of P3 announces."""
    if (head & 15) + 1 > max_record:
        raise Malformed("P3 announces a record above MAX_RECORD")


def check_end(head: int, frames: list[Frame]) -> None:
    if bool(head & END) != any(fr.kind == "CLOSE" for fr in frames):
        raise ProtocolError("RECORD_INVALID", "end bit and CLOSE")
