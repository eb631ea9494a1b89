#!/usr/bin/env python3
"""vectors.py make|check: the test vectors in peermux-core/vectors/, whose format is section 21 of docs/spec.md.

`make` writes them; the same files come out each time. `check` recomputes every output from the inputs in the files."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import peermux as pm
import rules
from mux import Mux
from peermux import Frame, stream_frame

DIR = Path(__file__).resolve().parent.parent.parent / "peermux-core" / "vectors"
Json = dict[str, Any]
SEE = "Section 21 of docs/spec.md describes the format. "
ABOUT = {
    "varints": SEE + "Each vector: value, an integer, and hex, its only valid encoding.",
    "frames": SEE + "Each vector: frame, its type and fields, and hex, its encoding, a whole frame area.",
    "handshake": SEE + "Each vector: the inputs of both sides, the payloads, and what the handshake gives: m1, m2, flight3, "
                       "h, ck, the four secrets and exported keying material.",
    "records": SEE + "Each vector: one direction, with key, first_n and first_size, and its records in order.",
    "rules": SEE + "Each vector: kind, the input that this kind needs, and what the rule makes of it.",
    "negative": SEE + "Each vector: kind, the input that this kind needs, and error, the outcome; null says that there is none.",
}
HEX_FIELDS = ("data", "payload", "bytes", "attestation")
# Members that are decimal strings in the files: what may not fit into a double (section 21.1).
LONG = frozenset({"value", "stream", "maximum", "window", "index", "code", "number", "settings", "n", "first_n", "now", "timestamp", "started", "key_made"})


def rnd(label: str, n: int = 32) -> bytes:
    """Bytes that look random and are the same each time."""
    return b"".join(pm.blake2b(f"peermux test vectors/{label}/{i}".encode()) for i in range(-(-n // 64)))[:n]


def counter(n: int) -> bytes:
    return bytes(i % 251 for i in range(n))


# ---- JSON forms ----

def converted(j: Any, convert: Callable[[Any], Any], long: bool = False) -> Any:
    """The same with `convert` applied to every value of the members in LONG, and to what is in their arrays."""
    if isinstance(j, dict):
        # Settings: in the vectors of shaping the two sides are pairs of them.
        shaping = j.get("kind") == "shaping"
        return {k: converted(v, convert, k in LONG or shaping and k in ("initiator", "responder", "holds")) for k, v in j.items()}
    if isinstance(j, list):
        return [converted(v, convert, long) for v in j]
    return convert(j) if long and j is not None else j


def dumped(j: Json) -> str:
    """A vector as it stands in its file. The rest of this program has integers for all numbers."""
    return json.dumps(converted(j, str), ensure_ascii=False, separators=(",", ":"))


def loaded(stem: str) -> list[Json]:
    def number(v: Any) -> int:
        assert isinstance(v, str) and str(int(v)) == v, f"{v!r} is not a decimal string"
        return int(v)
    out: list[Json] = converted(json.loads((DIR / f"{stem}.json").read_text(encoding="utf-8"))["vectors"], number)
    return out



def frame_json(fr: Frame) -> Json:
    out: Json = {"type": fr.kind} if fr.kind != "SKIPPABLE" else {"type": "SKIPPABLE", "number": fr.f["type"]}
    for k, v in fr.f.items():
        if fr.kind == "SKIPPABLE" and k == "type":
            continue
        if k == "payload" and len(v) > 64 and v == counter(len(v)):
            out["payload_counter"] = len(v)
        else:
            out[k] = v.hex() if k in HEX_FIELDS else [list(s) for s in v] if k == "settings" else v
    return out


def frame_from(j: Json) -> Frame:
    f: Json = {k: bytes.fromhex(v) if k in HEX_FIELDS else v for k, v in j.items() if k not in ("type", "number", "payload_counter")}
    if "settings" in f:
        f["settings"] = [tuple(s) for s in f["settings"]]
    if "number" in j:
        f["type"] = j["number"]
    if "payload_counter" in j:
        f["payload"] = counter(j["payload_counter"])
    return Frame(j["type"], f)


def area_from(frames: list[Json]) -> bytes:
    return pm.encode_frames([frame_from(f) for f in frames])


def payload(tlvs: pm.Tlvs, frames: list[Frame] = [], **more: Any) -> Json:
    settings = next((pm.decode_settings(v) for t, v in tlvs if t == pm.T_SETTINGS), [])
    return {**more, "tlvs": [[t, v.hex()] for t, v in tlvs], "settings": [list(s) for s in settings],
            "frames": [frame_json(f) for f in frames]}


def payload_bytes(kind: str, j: Json) -> bytes:
    tlvs = [(t, bytes.fromhex(v)) for t, v in j["tlvs"]]
    return pm.encode_payload(kind, tlvs, area_from(j["frames"]), j.get("header", 0))


# ---- outputs from inputs; each is used by make and by check ----

def run_varint(v: Json) -> Json:
    assert pm.Reader(bytes.fromhex(v["hex"])).varint() == v["value"] if "hex" in v else True
    return {"hex": pm.varint(v["value"]).hex()}


def run_frame(v: Json) -> Json:
    raw = pm.encode_frame(frame_from(v["frame"]))
    r = pm.Reader(raw)
    assert frame_json(pm.decode_frame(r)) == v["frame"] and not r.left(), v["name"]
    return {"hex": raw.hex()}


def start(v: Json) -> tuple[pm.Initiator, pm.Responder, bytes]:
    i, r = v["initiator"], v["responder"]
    un = bytes.fromhex
    ini = pm.Initiator(un(i["static"]), un(i["ephemeral"]), un(i["kem_seed"]), i["known"] and un(i["known"]))
    res = pm.Responder([un(s) for s in r["statics"]], un(r["ephemeral"]), un(r["kem_random"]))
    m1 = ini.m1(payload_bytes("P1", v["p1"])) if i["known"] else ini.m1_unknown(un(i["filler"]))
    return ini, res, m1


def check_attestations(v: Json, res: pm.Responder) -> None:
    ini, end = v["initiator"], 4_000_000_000
    statics = {"p1": pm.public(bytes.fromhex(ini["static"])), "p2": pm.public(res.s)}
    statics["p3"] = statics["p1"]
    for name, static in statics.items():
        role = rules.RESPONDER if name == "p2" else rules.INITIATOR
        for t, a in (v[name] or {"tlvs": []})["tlvs"]:
            if t == pm.T_ATTESTATION:
                assert rules.identity(bytes.fromhex(a), static, role, end) and not rules.identity(bytes.fromhex(a), static, role, end + 1)


def run_handshake(v: Json) -> Json:
    ini, res, m1 = start(v)
    out: Json = {"initiator_public": pm.public(ini.s).hex(), "m1": m1.hex()}
    p1 = res.read_m1(m1)
    check_attestations(v, res)
    kind = "P2-IK" if res.mode == "ik" else "P2-fallback"
    m2 = res.m2(payload_bytes(kind, v["p2"]))
    out |= {"mode": res.mode, "responder_public": pm.public(res.s).hex(), "m2": m2.hex()}
    p2 = pm.decode_payload(kind, ini.read_m2(m2))
    assert ini.mode == res.mode and ini.rs == pm.public(res.s)
    if ini.mode == "ik":
        p1_seen = pm.decode_payload("P1", p1 or b"")
        assert pm.chosen_from(p1_seen.versions, p1_seen.suites, p2)
        suite = p2.suites[0]
        s = pm.derive(ini.state.h, ini.state.ck, suite)
        rec = v["record0"]
        if p1_seen.flags & pm.EARLY:
            accepted = bool(p2.flags & pm.EARLY)
            assert [frame_json(f) for f in rules.decode_answers(p2.area, accepted)] == v["p2"]["frames"]
            early = v["p1"]["frames"]
            assert [frame_json(f) for f in rules.decode_early(p1_seen.area)] == early
            assert accepted or rec["frames"][:len(early)] == early
        if "answers" in v:
            back = pm.Direction(suite, s.r2i)
            raw = back.seal(pm.header(v["answers"]["next_size"], v["answers"]["key_update"], v["answers"]["end"]), area_from(v["answers"]["frames"]))
            out["r2i_record0"] = raw.hex()
        tx, rx = pm.Direction(suite, s.i2r), pm.Direction(suite, s.i2r)
        flight3 = tx.seal(pm.header(rec["next_size"], rec["key_update"], rec["end"]), area_from(rec["frames"]))
        _, frames = rx.open(flight3, 16, pm.FLIGHT3_AREA)
        assert [frame_json(f) for f in frames] == rec["frames"]
    else:
        flight3 = ini.flight3(payload_bytes("P3", v["p3"]))
        p3 = pm.decode_payload("P3", res.read_flight3(flight3))
        assert pm.chosen_from(p2.versions, p2.suites, p3)
        assert [frame_json(f) for f in pm.decode_area(p3.area)] == v["p3"]["frames"]
        assert not v["p1"] or v["p3"]["frames"][:len(v["p1"]["frames"])] == v["p1"]["frames"]
        s = pm.derive(ini.state.h, ini.state.ck, p3.suites[0])
    assert (res.state.h, res.state.ck, res.si) == (s.h, s.ck, pm.public(ini.s))
    out |= {"flight3": flight3.hex(), "suite": s.suite, "h": s.h.hex(), "ck": s.ck.hex(), "i2r": s.i2r.hex(), "r2i": s.r2i.hex(),
            "exporter": s.exporter.hex(), "ratchet": s.ratchet.hex(), "exports": []}
    for e in v["exports"]:
        got = s.export(bytes.fromhex(e["label"]), bytes.fromhex(e["context"]), e["length"])
        out["exports"].append({k: e[k] for k in ("label", "context", "length")} | {"output": got.hex()})
    return out


def run_records(v: Json) -> Json:
    tx, rx = (pm.Direction(v["suite"], bytes.fromhex(v["key"]), v["first_size"], v["first_n"]) for _ in range(2))
    out = []
    for rec in v["records"]:
        got: Json = {k: rec[k] for k in ("next_size", "key_update", "end", "frames")} | {"n": tx.n, "size": tx.size, "key": tx.key.hex()}
        raw = tx.seal(pm.header(rec["next_size"], rec["key_update"], rec["end"]), area_from(rec["frames"]))
        _, frames = rx.open(raw, v["max_record"])
        assert [frame_json(f) for f in frames] == rec["frames"]
        out.append(got | {"bytes": raw.hex()})
    return {"records": out, "last_key": tx.key.hex()}


def outcome(f: Callable[[], Any]) -> Any:
    try:
        f()
        return None
    except pm.ProtocolError as e:
        return e.name
    except pm.AuthFailed:
        return "AUTH"
    except pm.HandshakeFailed:
        return "HANDSHAKE_FAILED"
    except pm.Malformed:
        return "MALFORMED"


def run_early(v: Json) -> None:
    """The responder's side of early data, from P1 to what follows flight 3."""
    mux, fault = Mux(1, pm.check_settings([tuple(s) for s in v["settings"]]), pm.check_settings([])), None
    early, areas = (bytes.fromhex(h) for h in (v["early"], "")), [bytes.fromhex(h) for h in v["areas"]]
    if v["accepted"]:
        try:
            mux.receive(rules.decode_early(next(early).ljust(pm.FLIGHT3_AREA, b"\0")), record=False)
        except pm.ProtocolError as e:
            fault = e
    for i, area in enumerate(areas):
        if fault:  # flight 3 has arrived
            raise fault
        try:
            mux.receive(pm.decode_area(area))
        except pm.ProtocolError:
            assert i == len(areas) - 1, v["name"]
            raise


def run_answers(v: Json) -> None:
    """The initiator of early data reads P2."""
    mux = Mux(0, pm.check_settings([]), pm.check_settings([]))
    stream = mux.open("")
    stream.out += b"x"
    assert mux.fill(pm.FLIGHT3_AREA) == pm.encode_frames([Frame("OPEN", {"stream": 0, "priority": 3, "window": 2048, "form": "none"}), stream_frame(0, b"x")])
    mux.receive(rules.decode_answers(bytes.fromhex(v["area"]).ljust(pm.KINDS["P2-IK"][1], b"\0"), v["accepted"]), record=False)


def run_p3(v: Json) -> None:
    """The responder reads flight 3 of fallback, and the records after it."""
    mux = Mux(1, pm.check_settings([]), pm.check_settings([]))
    areas = [bytes.fromhex(h) for h in (v["area"], *v["areas"])]
    try:
        p3 = pm.decode_payload("P3", pm.encode_payload("P3", VS, areas[0], v["header"]))
        pm.check_size_of_first(p3.header, mux.mine[pm.MAX_RECORD])
    except pm.Malformed as e:
        raise pm.HandshakeFailed(str(e)) from None
    for i, area in enumerate(areas):
        try:
            frames = pm.decode_area(p3.area if i == 0 else area)
            pm.check_end(p3.header if i == 0 else 0, frames)
            mux.receive(frames, record=i > 0)
        except pm.ProtocolError:
            assert i == len(areas) - 1, v["name"]
            raise


def run_own_key(v: Json, base: Json) -> None:
    """`base` is the vector with the initiator's static key replaced by the responder's."""
    ini, res, m1 = start(base)
    own = pm.public(res.s)
    if v["side"] == "initiator":
        ini.read_m2(bytes.fromhex(v["m2"]))
        proved = ini.rs
    else:
        res.read_m1(bytes.fromhex(v["m1"]))
        res.m2(payload_bytes("P2-IK" if res.mode == "ik" else "P2-fallback", base["p2"]))
        if res.mode == "ik":
            s = pm.derive(res.state.h, res.state.ck, base["suite"])
            pm.Direction(s.suite, s.i2r).open(bytes.fromhex(v["flight3"]), 16, pm.FLIGHT3_AREA)
        else:
            res.read_flight3(bytes.fromhex(v["flight3"]))
        proved = res.si
    if proved == own:
        raise pm.HandshakeFailed("one's own key")


def opened_mux(v: Json) -> Mux:
    """After the decision: a side that sent the settings of `v`, received none, and has opened streams and drained as `v` says."""
    mux = Mux(0 if v["receiver"] == "initiator" else 1, pm.check_settings([tuple(s) for s in v["settings"]]), pm.check_settings([]))
    for _ in range(v["opened"]):
        mux.open("")
    if v.get("drained"):
        mux.drain(18)
    return mux


def run_replies(v: Json) -> list[Frame]:
    mux = opened_mux(v)
    mux.fill(16 * pm.Q)
    for area in v["areas"]:
        mux.receive(pm.decode_area(bytes.fromhex(area)))
    frames = [] if v.get("undecided") else pm.decode_area(mux.fill(16 * pm.Q))
    return [f for f in frames if f.kind in ("PONG", "RESET", "STOP", "CLOSE")]


def run_rule(v: Json) -> Json:
    if v["kind"] == "padme":
        return {"padded": rules.padme(v["quanta"])}
    if v["kind"] == "shaping":
        a, b = (pm.check_settings([(pm.MAX_RECORD, v[side][0]), (pm.SHAPING, v[side][1])]) for side in ("initiator", "responder"))
        assert rules.agree(a, b) == rules.agree(b, a)
        return {"holds": rules.agree(a, b).setting()}
    if v["kind"] == "replies":
        return {"frames": [frame_json(f) for f in run_replies(v)]}
    assert v["kind"] == "strike"
    register = rules.StrikeRegister(v["started"], v["capacity"])
    return {"offers": [{k: o[k] for k in ("now", "ephemeral", "timestamp")} |
                       {"accepted": register.take(bytes.fromhex(o["ephemeral"]), o["timestamp"], o["now"], v["key_made"])} for o in v["offers"]]}


def run_negative(v: Json, handshakes: dict[str, Json]) -> Json:
    kind = v["kind"]
    if kind == "varint":
        return {"error": outcome(lambda: pm.Reader(bytes.fromhex(v["hex"])).varint())}
    if kind == "area":
        return {"error": outcome(lambda: pm.decode_area(bytes.fromhex(v["hex"])))}
    if kind == "record":
        d = pm.Direction(v["suite"], bytes.fromhex(v["key"]), v["size"], v["n"])
        return {"error": outcome(lambda: d.open(bytes.fromhex(v["bytes"]), v["max_record"], v["area"]))}
    if kind == "payload":
        size = pm.KINDS[v["payload"]][0]
        return {"error": outcome(lambda: pm.decode_payload(v["payload"], bytes.fromhex(v["plaintext"]).ljust(size, b"\0")))}
    if kind == "early":
        return {"error": outcome(lambda: run_early(v))}
    if kind == "answers":
        return {"error": outcome(lambda: run_answers(v))}
    if kind == "p3":
        return {"error": outcome(lambda: run_p3(v))}
    if kind == "attestation":
        who = rules.identity(bytes.fromhex(v["attestation"]), bytes.fromhex(v["static"]), v["role"], v["now"])
        return {"identity": who and who.hex(), "error": None if who else "UNBOUND"}
    if kind == "key_limit":
        d = pm.Direction(v["suite"], bytes.fromhex(v["key"]))
        d.n = d.used = v["used"] - 1
        d._after(pm.KEY_UPDATE if v["key_update"] else 0)
        return {"error": outcome(lambda: d.open(bytes.fromhex(v["bytes"]), 16))}
    if kind == "own_key":
        base = handshakes[v["base"]]
        return {"error": outcome(lambda: run_own_key(v, base | {"initiator": base["initiator"] | {"static": base["responder"]["statics"][0]}}))}
    if kind == "choice":
        offer, choice = (pm.decode_payload(kind, bytes.fromhex(v[k]).ljust(pm.KINDS[kind][0], b"\0"))
                         for k, kind in (("p1", "P1"), ("p2", "P2-IK")))
        return {"error": None if pm.chosen_from(offer.versions, offer.suites, choice) else "HANDSHAKE_FAILED"}
    if kind == "connection":
        mux = opened_mux(v)
        errors = []
        for area in v["areas"]:
            errors.append(outcome(lambda: mux.receive(pm.decode_area(bytes.fromhex(area)))))
        assert not any(errors[:-1]), v["name"]
        return {"error": errors[-1]}
    assert kind == "handshake"
    base = handshakes[v["base"]]
    change, at, new = v["flight"], v["offset"], bytes.fromhex(v["bytes"])

    def put(name: str, flight: bytes) -> bytes:
        return flight[:at] + new + flight[at + len(new):] if name == change else flight
    ini, res, m1 = start(base)
    side = "responder"
    try:
        res.read_m1(put("m1", m1))
        reached = res.mode
        p2 = v["p2"] if "p2" in v else base["p2"]
        m2 = res.m2(payload_bytes("P2-IK" if res.mode == "ik" else "P2-fallback", p2))
        side = "initiator"
        ini.read_m2(put("m2", m2))
        side = "responder"
        if res.mode == "fallback":
            res.read_flight3(put("flight3", bytes.fromhex(base["flight3"])))
        else:
            s = pm.derive(res.state.h, res.state.ck, base["suite"])
            pm.Direction(s.suite, s.i2r).open(put("flight3", bytes.fromhex(base["flight3"])), 16, pm.FLIGHT3_AREA)
    except pm.HandshakeFailed:
        return {"side": side, "responder_mode": res.mode or None, "error": "HANDSHAKE_FAILED"}
    except pm.AuthFailed:  # i2r record 0 is flight 3
        return {"side": side, "responder_mode": reached, "error": "HANDSHAKE_FAILED"}
    return {"side": None, "responder_mode": res.mode, "error": None}


# ---- what is in the files ----

def varint_vectors() -> Iterator[Json]:
    for v in (0, 1, 37, 63, 64, 494, 16382, 16383, 16384, 494878333, 2**30 - 1, 2**30, 2**32, 2**53 + 1, 151288809941952652, 2**62 - 2, 2**62 - 1):
        yield {"value": v}


BIG = 2**62 - 1


def frame_list() -> Iterator[tuple[str, Frame]]:
    F = Frame
    yield "padding", F("PADDING")
    yield "ping", F("PING", {"data": bytes(range(1, 9))})
    yield "pong", F("PONG", {"data": bytes(range(1, 9))})
    for v in (2048, BIG):
        yield f"max_data {v}", F("MAX_DATA", {"maximum": v})
    yield "max_stream_data", F("MAX_STREAM_DATA", {"stream": 64, "maximum": 1 << 20})
    yield "max_streams", F("MAX_STREAMS", {"maximum": 17, "window": 65_536})
    yield "max_streams at its most", F("MAX_STREAMS", {"maximum": 2**60, "window": pm.VARINT_MAX})
    for kind in ("RESET", "STOP"):
        yield kind.lower() + " application", F(kind, {"stream": 0, "layer": 0, "code": BIG})
        yield kind.lower() + " protocol", F(kind, {"stream": 16384, "layer": 1, "code": 0x14})
    yield "open without a name", F("OPEN", {"stream": 0, "priority": 3, "window": 65_536, "form": "none"})
    yield "open with a new name", F("OPEN", {"stream": 1, "priority": 0, "window": 0, "form": "new", "name": "interop/echo"})
    yield "open with a name for once", F("OPEN", {"stream": 62, "priority": 15, "window": 2048, "form": "once", "name": "!~"})
    yield "open with the longest name", F("OPEN", {"stream": 64, "priority": 7, "window": 16_384, "form": "new", "name": "n" * 64})
    yield "open with index 0", F("OPEN", {"stream": 3, "priority": 11, "window": pm.VARINT_MAX, "form": "index", "index": 0})
    yield "open with index 61", F("OPEN", {"stream": 5, "priority": 3, "window": 2048, "form": "index", "index": 61})
    yield "open with index 63", F("OPEN", {"stream": 7, "priority": 3, "window": 0, "form": "index", "index": 63})
    yield "priority", F("PRIORITY", {"stream": 2, "priority": 8})
    yield "close without a reason", F("CLOSE", {"layer": 1, "code": 0, "reason": ""})
    yield "close with a reason", F("CLOSE", {"layer": 0, "code": 300, "reason": "bis später"})
    yield "close with the longest reason", F("CLOSE", {"layer": 0, "code": 1, "reason": "r" * 256})
    yield "drain", F("DRAIN", {"code": 0x12})
    yield "settings empty", F("SETTINGS", {"settings": []})
    yield "settings unknown", F("SETTINGS", {"settings": [(27, 5), (58, BIG), (27, 5)]})
    yield "attestation shortest", F("ATTESTATION", {"attestation": b"\x80"})
    yield "attestation longest", F("ATTESTATION", {"attestation": b"\x80" + rnd("attestation", 1023)})
    for fin in (False, True):
        for length in (False, True):
            for data in (b"", b"peermux"):
                yield f"stream fin={int(fin)} len={int(length)} {len(data)} bytes", stream_frame(4, data, fin, length)
    yield "stream 1391 bytes", stream_frame(0, counter(1389), False, False)
    for t in (0x40, 0x59, 0x3FFF):
        yield f"skippable {t:#x}", F("SKIPPABLE", {"type": t, "bytes": rnd("skip", t % 7)})


def frame_vectors() -> Iterator[Json]:
    for name, fr in frame_list():
        yield {"name": name, "frame": frame_json(fr)}


VS = [(pm.T_VERSIONS, b"\1"), (pm.T_SUITES, b"\1")]
OFFER = [(pm.T_VERSIONS, b"\1\xe5"), (pm.T_SUITES, b"\1\2\xe9")]
SETTINGS_I = [(1, 16), (2, 1 << 20), (3, 65536), (4, 100), (5, 30000), (27, 7), (6, 0)]
SETTINGS_R = [(1, 4), (2, 1 << 18), (3, 1 << 16), (4, 32), (31 * 9 + 27, BIG)]
STAMP = (pm.T_TIMESTAMP, (1_760_000_000_000).to_bytes(8, "big"))


def setting_tlv(s: pm.Settings) -> tuple[int, bytes]:
    return pm.T_SETTINGS, pm.encode_settings(s)


def attestation(static: bytes, role: int) -> bytes:
    return rules.attest(rnd("ed25519"), 4_000_000_000, static, role)


def hello_frames(first: int = 0) -> list[Frame]:
    return [Frame("OPEN", {"stream": first, "priority": 3, "window": 2048, "form": "new", "name": "interop/echo"}), stream_frame(first, b"hello", True)]


def handshake_vectors() -> Iterator[Json]:
    un = bytes.fromhex

    def vector(name: str, p1: Any, p2: Json, p3: Any = None, record0: Any = None, known: Any = None, statics: tuple[str, ...] = ("responder",)) -> Json:
        ini: Json = {"static": rnd(name + " anonymous" if "anonymous" in name else "initiator").hex(), "ephemeral": rnd(name + "/ei").hex(),
                     "kem_seed": rnd(name + "/kem", 64).hex(), "known": known and pm.public(rnd(known)).hex(),
                     "filler": None if known else rnd(name + "/filler", 1600).hex()}
        res = {"statics": [rnd(s).hex() for s in statics], "ephemeral": rnd(name + "/er").hex(), "kem_random": rnd(name + "/m").hex()}
        exports = [{"label": b"interop".hex(), "context": "", "length": 32}, {"label": "", "context": rnd("ctx").hex(), "length": 1},
                   {"label": b"long".hex(), "context": "00", "length": 130}]
        return {"name": name, "initiator": ini, "responder": res, "p1": p1, "p2": p2, "p3": p3, "record0": record0, "exports": exports}

    def record0(frames: list[Frame], **more: Any) -> Json:
        return {"next_size": 1, "key_update": False, "end": False, "frames": [frame_json(f) for f in frames]} | more
    p1 = payload([*OFFER, STAMP, setting_tlv(SETTINGS_I), (0xE7, b"grease")])
    choice = payload([*VS, setting_tlv(SETTINGS_R)])
    anon = payload([*OFFER, (pm.T_FLAGS, b"\1"), setting_tlv(SETTINGS_I)])
    offer2 = payload([(0xE0, b""), *OFFER, setting_tlv(SETTINGS_R)])
    aes = [(pm.T_VERSIONS, b"\1"), (pm.T_SUITES, b"\2")]
    yield vector("ik authenticated", p1, choice, None, record0([]), "responder")
    yield vector("ik anonymous", anon, choice, None, record0([]), "responder")
    yield vector("ik aes", payload([(pm.T_SUITES, b"\2\1"), (pm.T_VERSIONS, b"\1")]), payload(aes), None, record0(hello_frames()), "responder")
    yield vector("ik previous key", p1, choice, None, record0([]), "previous", ("responder", "previous"))
    att = attestation(pm.public(rnd("initiator")), 0)
    frames = hello_frames() + [Frame("OPEN", {"stream": 2, "priority": 12, "window": 2048, "form": "index", "index": 0}),
                               Frame("SKIPPABLE", {"type": 0x59, "bytes": b"grease"})]
    # The last frame has no length: it fills the frame area of 1136 bytes.
    frames.append(stream_frame(2, counter(pm.FLIGHT3_AREA - len(pm.encode_frames(frames)) - 2), False, False))
    yield vector("ik flight 3 with frames", payload([*OFFER, setting_tlv([(1, 16)]), (pm.T_ATTESTATION, att)]), choice, None,
                 record0(frames, next_size=4, key_update=True), "responder")
    early = [Frame("OPEN", {"stream": 0, "priority": 3, "window": 65_536, "form": "once", "name": "interop/early"}), stream_frame(0, b"early", True)]
    p1_early = payload([*OFFER, (pm.T_FLAGS, b"\2"), STAMP, setting_tlv(SETTINGS_I)], early)
    yield vector("ik early data refused", p1_early, choice, None, record0(early), "responder")
    yield vector("ik early data accepted", p1_early, payload([*VS, (pm.T_FLAGS, b"\2"), setting_tlv(SETTINGS_R)], [stream_frame(0, b"answer", True)]),
                 None, record0([]), "responder")
    chosen = [*VS, setting_tlv(SETTINGS_I)]
    yield vector("fallback unknown key", None, offer2, payload(chosen, header=0))
    yield vector("fallback after a stale key", p1, offer2, payload(chosen, header=0), None, "stale")
    yield vector("fallback flight 3 with frames", None, payload([*OFFER, (pm.T_FLAGS, b"\4"), setting_tlv(SETTINGS_R), (pm.T_ATTESTATION, attestation(pm.public(rnd("responder")), 1))]),
                 payload([*chosen, (pm.T_ATTESTATION, att)], hello_frames(), header=3))
    yield vector("fallback anonymous aes", None, offer2, payload([*aes, (pm.T_FLAGS, b"\1")], header=0))
    # Early data that fills P1, its answers and its fate in fallback; attestations in all payloads of IK; shaping.
    ask = [Frame("OPEN", {"stream": 0, "priority": 3, "window": 65_536, "form": "new", "name": "interop/early"}), stream_frame(0, counter(300), True),
           Frame("OPEN", {"stream": 2, "priority": 9, "window": 2048, "form": "index", "index": 0}), Frame("SKIPPABLE", {"type": 0x59, "bytes": b"grease"})]
    # The last frame ends with the frame area.
    ask.append(stream_frame(2, counter(pm.FLIGHT3_AREA - len(pm.encode_frames(ask)) - 2), False, False))
    p1_ask = payload([STAMP, (pm.T_FLAGS, b"\2"), *OFFER, setting_tlv(SETTINGS_I)], ask)
    answers = [stream_frame(0, counter(1024)), Frame("MAX_STREAM_DATA", {"stream": 2, "maximum": 70_000}), Frame("STOP", {"stream": 2, "layer": 0, "code": 9}),
               Frame("RESET", {"stream": 2, "layer": 0, "code": 9})]
    yield vector("ik early data accepted, answers before flight 3", p1_ask,
                 payload([*VS, (pm.T_FLAGS, b"\2"), setting_tlv(SETTINGS_R)], [stream_frame(0, counter(45))]), None,
                 record0([Frame("RESET", {"stream": 2, "layer": 0, "code": 9})]), "responder") | {"answers": record0(answers, next_size=4)}
    given_up = [early[0], stream_frame(0, b"early")]
    yield vector("ik early data refused, a stream reset meanwhile",
                 payload([*OFFER, (pm.T_FLAGS, b"\2"), STAMP, setting_tlv(SETTINGS_I)], given_up), choice, None,
                 record0([*given_up, Frame("RESET", {"stream": 0, "layer": 0, "code": 5}), Frame("OPEN", {"stream": 2, "priority": 3, "window": 2048, "form": "none"})]), "responder")
    yield vector("fallback after refused early data", p1_ask, offer2, payload([*chosen, (pm.T_FLAGS, b"\2")], ask, header=1), None, "stale")
    shaped = [(1, 6), (6, rules.Shaping(rules.CONSTANT, 8, 20_000).setting())]
    yield vector("ik attested and constant", payload([*OFFER, (pm.T_FLAGS, b"\2"), STAMP, (pm.T_ATTESTATION, att), setting_tlv(shaped)], early),
                 payload([(pm.T_ATTESTATION, attestation(pm.public(rnd("responder")), 1)), *VS, (pm.T_FLAGS, b"\2"), setting_tlv([(1, 16), (6, 1)])]),
                 None, record0([Frame("ATTESTATION", {"attestation": att})], next_size=6), "responder")
    yield vector("fallback flight 3 with close", None, offer2,
                 payload(VS, [Frame("CLOSE", {"layer": 0, "code": 7, "reason": "at once"})], header=pm.END))


def record_vectors() -> Iterator[Json]:
    def rec(frames: list[Frame], next_size: int = 1, key_update: bool = False, end: bool = False) -> Json:
        return {"next_size": next_size, "key_update": key_update, "end": end, "frames": [frame_json(f) for f in frames]}

    def full(size: int) -> list[Frame]:  # fills the frame area exactly: type, stream id, payload
        return [stream_frame(0, counter(size * pm.Q - 17 - 2), False, False)]
    for suite, name, most in ((1, "chacha20-poly1305", 16), (2, "aes-256-gcm", 3)):
        common = {"suite": suite, "max_record": 16, "first_n": 0, "first_size": 1}
        yield {"name": f"{name} 1, 2, 4 and {most} quanta, key update, close", "key": rnd(name).hex(), **common, "records": [
            rec([Frame("PING", {"data": b"12345678"}), stream_frame(1, b"a")], 2), rec(full(2), 4),
            rec([stream_frame(0, counter(3000)), stream_frame(3, b"", True)], most), rec(full(most), 1, True),
            rec([]), rec([Frame("CLOSE", {"layer": 1, "code": 0, "reason": "done"})], end=True)]}
        yield {"name": f"{name} two key updates in a row from a high counter", "key": rnd(name + "2").hex(), **common,
               "first_n": 2**40 + 258, "records": [rec([], 1, True), rec(hello_frames(), 1, True), rec([])]}
    yield {"name": "close in a record of 2 quanta", "key": rnd("close").hex(), "suite": 1, "max_record": 2, "first_n": 9, "first_size": 2,
           "records": [rec([stream_frame(0, b"last"), Frame("CLOSE", {"layer": 0, "code": 7, "reason": ""})], end=True)]}


def negative_vectors() -> Iterator[Json]:
    def v(kind: str, name: str, error: Any, **more: Any) -> Json:
        return {"kind": kind, "name": name, **more, "error": error}
    for h in ("4000", "403f", "80000000", "80003fff", "c000000000000000", "c00000003fffffff"):
        yield v("varint", f"not in shortest form {h}", "MALFORMED", hex=h)
    for h in ("", "40", "800000", "c0000000000000"):
        yield v("varint", f"truncated {h or 'to nothing'}", "MALFORMED", hex=h)
    FE = "FRAME_ENCODING"
    truncated = set()
    for name, fr in frame_list():
        raw = pm.encode_frame(fr)
        if fr.kind == "PADDING" or fr.kind in truncated or (fr.kind == "STREAM" and not fr.len) or raw[-1] == 0:
            continue
        truncated.add(fr.kind)
        yield v("area", f"truncated: {name}", FE, hex=raw[:-1].hex())
        yield v("area", f"nothing after the type: {name}", FE, hex=raw[:2 if raw[0] >= 0x40 else 1].hex())
    areas = [
        ("padding is not zero", "RECORD_INVALID", "000001"), ("padding is not zero after a frame", "RECORD_INVALID", "0b12" + "00" * 20 + "80"),
        ("unknown type 0x0e", "FRAME_UNKNOWN", "0e00"), ("unknown type 0x0f", "FRAME_UNKNOWN", "0f00"), ("unknown type 0x14", "FRAME_UNKNOWN", "1400"),
        ("unknown type 0x3f", "FRAME_UNKNOWN", "3f00"), ("unknown type 0x4000", "FRAME_UNKNOWN", "8000400000"),
        ("type not in shortest form", FE, "40010102030405060708"), ("type of padding not in shortest form", FE, "4000"), ("truncated type", FE, "0b1240"),
        ("maximum not in shortest form", FE, "034001"), ("max_streams above 2^60", FE, "05d00000000000000100"),
        ("reset with layer 2", FE, "06000200"), ("stop with layer 255", FE, "0700ff00"), ("priority with bit 4", FE, "090010"),
        ("open with priority bit 7", FE, "0800830000"), ("open with an empty name", FE, "080003000100"), ("open for once with an empty name", FE, "080003000200"),
        ("open with a name of 65 bytes", FE, "080003000140 41".replace(" ", "") + "6e" * 65), ("open with a space in the name", FE, "080003000103612062"),
        ("open with 0x7f in the name", FE, "0800030002027f61"), ("open with UTF-8 in the name", FE, "080003000102c3a4"),
        ("close with layer 2", FE, "0a020000"), ("close with a reason of 257 bytes", FE, "0a00004101" + "72" * 257),
        ("close with a reason that is not UTF-8", FE, "0a000002c328"), ("a frame after close", "FRAME_NOT_ALLOWED", "0a010000" + "0b12"),
        ("a second close", "FRAME_NOT_ALLOWED", "0a010000" + "0a010000"), ("attestation empty", FE, "0d00"),
        ("attestation of 1025 bytes", FE, "0d4401" + "80" * 1025), ("settings frame with MAX_RECORD", "SETTINGS_INVALID", "0c020104"),
        ("settings frame with SHAPING after an unknown one", "SETTINGS_INVALID", "0c041b000600"), ("settings frame with half a setting", FE, "0c011b"),
        ("skippable beyond the area", FE, "40 40 05 01020304".replace(" ", "")), ("stream with a length beyond the area", FE, "12000561626364"),
        ("stream without a length takes the rest", None, "10000000000001"), ("skippable frames are skipped", None, "40400161" + "7fff00" + "0b12"),
        ("unknown settings are ignored", None, "0c041b001b00"), ("an area without any frame", None, ""), ("unknown code in drain", None, "0b3f"),
    ]
    for name, error, h in areas:
        yield v("area", name, error, hex=h)
    # records
    key = rnd("negative records")

    def record(name: str, error: Any, head: int, area: bytes, suite: int = 1, size: int = 1, flip: Any = None, max_record: int = 4, limit: Any = None) -> Json:
        raw = bytearray(pm.Direction(suite, key, size, 5).seal(head, area))
        if flip is not None:
            raw[flip] ^= 1
        return v("record", name, error, suite=suite, key=key.hex(), n=5, size=size, max_record=max_record, area=limit, bytes=raw.hex())
    close = bytes.fromhex("0a010000")
    yield record("tampered tag", "AUTH", 0, b"", flip=-1)
    yield record("tampered ciphertext, aes", "AUTH", 0, b"", suite=2, flip=0)
    yield record("reserved bit 6", "RECORD_INVALID", 0x40, b"")
    yield record("reserved bit 7", "RECORD_INVALID", 0x80, b"")
    yield record("announcement above MAX_RECORD", "RECORD_INVALID", 4, b"")
    yield record("announcement of MAX_RECORD", None, 3, b"")
    yield record("end bit without close", "RECORD_INVALID", pm.END, b"")
    yield record("close without end bit", "RECORD_INVALID", 0, close)
    yield record("end with key update", "RECORD_INVALID", pm.END | pm.KEY_UPDATE, close)
    yield record("end with an announcement", "RECORD_INVALID", pm.END | 1, close)
    yield record("padding is not zero at the last byte", "RECORD_INVALID", 0, bytes(1390) + b"\1")
    yield record("bytes after the frame area of flight 3", "RECORD_INVALID", 0, bytes(1136) + b"\1", limit=1136)
    # payloads
    def payload_vec(name: str, error: Any, which: str, raw: bytes) -> Json:
        return v("payload", name, error, payload=which, plaintext=raw.rstrip(b"\0").hex())

    def tlv_vec(name: str, error: Any, tlvs: pm.Tlvs, which: str = "P1") -> Json:
        return payload_vec(f"{which}: {name}", error, which, pm.encode_payload(which, tlvs))
    M = "MALFORMED"
    yield tlv_vec("least", None, VS)
    yield tlv_vec("unknown TLVs are ignored, even twice", None, [(0xE1, b"a"), *VS, (0xE1, b""), (0x07, b"x")])
    yield tlv_vec("TLVs of type 0 are ignored, even twice", None, [(0, b"a"), *VS, (0, b"")])
    yield tlv_vec("unknown settings are ignored, even twice", None, [*VS, setting_tlv([(27, 1), (27, 2), (7, 0)])])
    yield tlv_vec("flags 2 to 7 are ignored", None, [*VS, (pm.T_FLAGS, b"\xfc")])
    yield tlv_vec("a TLV of type 0, twice", None, [(0, b"a"), *VS, (0, b"a")])
    yield tlv_vec("TLVs of 205 bytes", None, [*VS, (0xE1, bytes(197))])
    yield payload_vec("P1: tlv_len of 206", M, "P1", (206).to_bytes(2, "big") + bytes([1, 1, 1, 2, 1, 1, 0xE1, 198]) + b"a" * 198)
    yield payload_vec("P1: tlv_len of 65535", M, "P1", b"\xff\xff" + bytes([1, 1, 1, 2, 1, 1]))
    yield payload_vec("P1: a TLV reaches beyond tlv_len", M, "P1", b"\0\x08" + bytes([1, 1, 1, 2, 1, 1, 3, 1, 1]))
    yield payload_vec("P1: half a TLV header", M, "P1", b"\0\x07" + bytes([1, 1, 1, 2, 1, 1, 3]))
    yield tlv_vec("no VERSIONS", M, VS[1:])
    yield tlv_vec("no SUITES", M, VS[:1])
    yield tlv_vec("VERSIONS empty", M, [(1, b""), (2, b"\1")])
    yield tlv_vec("VERSIONS twice", M, [*VS, VS[0]])
    yield tlv_vec("FLAGS of 2 bytes", M, [*VS, (3, b"\0\0")])
    yield tlv_vec("TIMESTAMP of 7 bytes", M, [*VS, (4, bytes(7))])
    yield tlv_vec("ATTESTATION of 113 bytes", M, [*VS, (6, bytes([128]) * 113)])
    yield tlv_vec("ATTESTATION empty", M, [*VS, (6, b"")])
    for s in ([(1, 0)], [(1, 17)], [(2, 2047)], [(3, 2047)], [(4, 15)], [(4, 2**60 + 1)], [(6, 3)], [(6, 2 | 999 << 8)], [(6, 2 | 10_000_001 << 8)],
              [(1, 4), (1, 4)]):
        yield tlv_vec("setting " + ", ".join(f"{i} = {n}" for i, n in s), M, [*VS, setting_tlv(s)])
    for s in ([(1, 16)], [(2, 2048), (3, 2048)], [(4, 16)], [(4, 2**60)], [(5, BIG)], [(6, 2 | 3 << 4 | 1000 << 8)]):
        yield tlv_vec("setting " + ", ".join(f"{i} = {n}" for i, n in s), None, [*VS, setting_tlv(s)])
    yield tlv_vec("setting not in shortest form", M, [*VS, (5, bytes.fromhex("014001"))])
    yield tlv_vec("half a setting", M, [*VS, (5, b"\1")])
    for s in ([(6, 1 << 40)], [(6, 2 | 1000 << 8 | 1 << 40)], [(6, 1 << 4)], [(6, 1 << 8)], [(6, 1 | 1 << 4)], [(6, 1 | 1000 << 8)], [(6, 2)], [(6, 15)],
              [(6, 1), (6, 1)]):
        yield tlv_vec("setting " + ", ".join(f"{i} = {n}" for i, n in s), M, [*VS, setting_tlv(s)])
    for s in ([(6, 0)], [(6, 1)], [(6, 2 | 15 << 4 | 10_000_000 << 8)]):
        yield tlv_vec("setting " + ", ".join(f"{i} = {n}" for i, n in s), None, [*VS, setting_tlv(s)])
    yield tlv_vec("SHAPING constant without an interval", M, [*VS, setting_tlv([(6, 2)])], "P3")
    yield tlv_vec("a version twice", None, [(1, b"\1\1"), (2, b"\1")])
    yield tlv_vec("an empty SETTINGS", None, [*VS, (5, b"")])
    yield tlv_vec("EARLY without TIMESTAMP", None, [*VS, (3, b"\2")])
    yield tlv_vec("a TIMESTAMP is ignored, whatever its length", None, [*VS, (4, bytes(7))], "P2-IK")
    yield tlv_vec("EARLY", None, [*VS, (3, b"\2")], "P3")
    yield tlv_vec("TIMESTAMP twice, although one is ignored", M, [*VS, (4, bytes(8)), (4, bytes(8))], "P2-IK")
    base = pm.encode_payload("P1", VS)
    yield payload_vec("P1: a byte after the frame area", M, "P1", base[:8 + 1136] + b"\1")
    base = pm.encode_payload("P2-IK", VS)
    yield payload_vec("P2-IK: a byte after the frame area", M, "P2-IK", base[:8 + 48] + b"\1")
    yield payload_vec("P2-fallback: a byte after the TLVs", M, "P2-fallback", pm.encode_payload("P2-fallback", VS)[:8] + b"\1")
    yield tlv_vec("two choices of a version", M, [(1, b"\1\2"), (2, b"\1")], "P2-IK")
    yield tlv_vec("two choices of a suite", M, [(1, b"\1"), (2, b"\1\2")], "P3")
    for name, error, head in (("key update", M, pm.KEY_UPDATE), ("reserved bit 6", M, 0x40), ("reserved bit 7", M, 0x80),
                              ("end with an announcement", M, pm.END | 1)):
        yield payload_vec(f"P3: {name}", error, "P3", pm.encode_payload("P3", VS, header=head))
    p1 = pm.encode_payload("P1", VS).rstrip(b"\0").hex()
    for name, error, c in (("version not offered", "HANDSHAKE_FAILED", [(1, b"\2"), (2, b"\1")]),
                           ("suite not offered", "HANDSHAKE_FAILED", [(1, b"\1"), (2, b"\2")]), ("as offered", None, VS)):
        yield v("choice", f"choice: {name}", error, p1=p1, p2=pm.encode_payload("P2-IK", c).rstrip(b"\0").hex())
    # connections
    def conn(name: str, error: Any, *records: list[Frame], receiver: str = "responder", settings: pm.Settings = [], opened: int = 0) -> Json:
        return v("connection", name, error, receiver=receiver, settings=[list(s) for s in settings], opened=opened,
                 areas=[pm.encode_frames(r).hex() for r in records])

    def op(i: int, **more: Any) -> Frame:
        return Frame("OPEN", {"stream": i, "priority": 3, "window": 2048, "form": "none"} | more)
    reset, stop = (Frame(k, {"stream": 0, "layer": 0, "code": 1}) for k in ("RESET", "STOP"))
    data, fin = stream_frame(0, b"x"), stream_frame(0, b"", True)
    yield conn("open of the wrong parity", "STREAM_ID", [op(1)])
    yield conn("open that is not the next", "STREAM_ID", [op(0), op(4)])
    yield conn("open twice", "STREAM_ID", [op(0)], [op(0)])
    yield conn("open in order", None, [op(0)], [op(2), op(4)])
    yield conn("open by the responder", None, [op(1), op(3)], receiver="initiator")
    yield conn("open by the responder with an even id", "STREAM_ID", [op(0)], receiver="initiator")
    yield conn("16 streams", None, [op(2 * i) for i in range(16)])
    yield conn("17 streams", "STREAM_LIMIT", [op(2 * i) for i in range(17)])
    yield conn("17 streams where 17 may be", None, [op(2 * i) for i in range(17)], settings=[(4, 17)])
    for fr in (data, reset, stop, Frame("PRIORITY", {"stream": 0, "priority": 1}), Frame("MAX_STREAM_DATA", {"stream": 0, "maximum": 5})):
        yield conn(f"{fr.kind} for a stream never opened", "STREAM_ID", [fr])
    yield conn("stream of the receiver, never opened", "STREAM_ID", [stream_frame(1, b"x")])
    yield conn("stream of the receiver, opened", None, [stream_frame(1, b"x")], opened=1)
    yield conn("stream after fin", "STREAM_STATE", [op(0), fin], [data])
    yield conn("fin after fin", "STREAM_STATE", [op(0), fin, fin])
    yield conn("stream after reset", "STREAM_STATE", [op(0), reset, data])
    yield conn("reset after fin", "STREAM_STATE", [op(0), fin, reset])
    yield conn("reset after reset", "STREAM_STATE", [op(0), reset, reset])
    yield conn("stop after fin", None, [op(0), fin, stop])
    yield conn("stop after stop", None, [op(0), stop, stop])
    yield conn("all but open are ignored when a stream has ended", None,
               [op(0), fin, stop], [data, fin, reset, stop, Frame("PRIORITY", {"stream": 0, "priority": 1})])
    yield conn("open when the stream has ended", "STREAM_ID", [op(0), fin, stop], [op(0)])
    whole = stream_frame(0, counter(1024))
    yield conn("2048 bytes", None, [op(0), whole], [whole])
    yield conn("2049 bytes on a stream", "FLOW_CONTROL", [op(0), whole], [whole], [data], settings=[(2, 4096)])
    yield conn("2049 bytes on the connection", "FLOW_CONTROL", [op(0), op(2), whole], [stream_frame(2, counter(1024))], [data])
    yield conn("index without a name", "FRAME_ENCODING", [op(0, form="index", index=0)])
    yield conn("a name for once is not entered", "FRAME_ENCODING", [op(0, form="once", name="a"), op(2, form="index", index=0)])
    yield conn("a new name is entered", None, [op(0, form="new", name="a"), op(2, form="index", index=0)])
    names = [op(2 * i, form="new", name=f"p{i}") for i in range(64)]
    yield conn("64 new names", None, names, [op(128, form="index", index=63)], settings=[(4, 100)])
    yield conn("65 new names", "FRAME_ENCODING", names, [op(128, form="new", name="p64")], settings=[(4, 100)])
    drain, settings = Frame("DRAIN", {"code": 0x12}), Frame("SETTINGS", {"settings": [(27, 1)]})
    yield conn("a second drain", "FRAME_NOT_ALLOWED", [drain], [drain])
    yield conn("a second settings frame", "SETTINGS_INVALID", [settings], [settings])
    yield conn("open after the opener's own drain", "FRAME_NOT_ALLOWED", [op(0)], [drain], [op(2)])
    yield conn("open after drain in one record", "FRAME_NOT_ALLOWED", [drain, op(0)])
    yield conn("data after drain", None, [op(0), drain, data], [stream_frame(0, b"y", True)])
    crossing = conn("open after the receiver's drain is refused", None, [op(0), data], [op(2)], [stream_frame(0, b"y", True)])
    yield crossing | {"drained": True}
    yield conn("drains that cross", None, [drain]) | {"drained": True}
    yield conn("a second drain after the receiver's own", "FRAME_NOT_ALLOWED", [drain], [drain]) | {"drained": True}
    yield conn("before the decision: data", None, [op(0), whole], [whole]) | {"undecided": True}
    yield conn("before the decision: 2049 bytes", "FLOW_CONTROL", [op(0), whole], [whole], [data]) | {"undecided": True}
    yield conn("before the decision: data after fin", "STREAM_STATE", [op(0), fin], [data]) | {"undecided": True}
    yield conn("before the decision: open after drain", "FRAME_NOT_ALLOWED", [drain], [op(0)]) | {"undecided": True}
    late = Frame("ATTESTATION", {"attestation": b"\x80abc"})
    for fr, error in ((settings, "SETTINGS_INVALID"), (late, "FRAME_NOT_ALLOWED")):
        yield conn(f"{fr.kind} in the 16th record", None, *[[]] * 15, [fr])
        yield conn(f"{fr.kind} in the 17th record", error, *[[]] * 16, [fr])
    att = Frame("ATTESTATION", {"attestation": b"\x80abc"})
    yield conn("a second attestation frame", "FRAME_NOT_ALLOWED", [att, att])
    # early data
    def early(name: str, error: Any, frames: Any, *records: list[Frame], accepted: bool = True, more: Any = ()) -> Json:
        raw = frames if isinstance(frames, bytes) else pm.encode_frames(frames)
        return v("early", name, error, accepted=accepted, settings=[[2, 4096], [3, 4096], *more], early=raw.hex(), areas=[pm.encode_frames(r).hex() for r in records or ([],)])
    N = "FRAME_NOT_ALLOWED"
    more = [op(0), data, stream_frame(0, b"y", True), Frame("SKIPPABLE", {"type": 0x3FFF, "bytes": b"x"})]
    yield early("accepted: what is allowed", None, more, [op(2)])
    yield early("accepted: nothing but padding", None, [], [op(0)])
    yield early("accepted: a name from early data", None, [op(0, form="new", name="a")], [op(2, form="index", index=0)])
    yield early("accepted: the credit goes on", None, [op(0), stream_frame(0, counter(1024))], [stream_frame(0, counter(1000))], [stream_frame(0, counter(1300))],
                [stream_frame(0, counter(772))])
    yield early("accepted: early payload uses credit", "FLOW_CONTROL", [op(0), stream_frame(0, counter(1024))], [stream_frame(0, counter(1000))], [stream_frame(0, counter(1300))],
                [stream_frame(0, counter(773))])
    for fr in (Frame("PING", {"data": bytes(8)}), Frame("PONG", {"data": bytes(8)}), Frame("MAX_DATA", {"maximum": 5000}),
               Frame("MAX_STREAM_DATA", {"stream": 0, "maximum": 5000}), Frame("MAX_STREAMS", {"maximum": 20, "window": 2048}), reset, stop,
               Frame("PRIORITY", {"stream": 0, "priority": 1}), Frame("CLOSE", {"layer": 0, "code": 1, "reason": ""}), drain, settings, att):
        yield early(f"accepted: {fr.kind}", N, [op(0), fr])
    yield early("accepted: a frame is cut off", "FRAME_ENCODING", pm.encode_frame(op(0)) + b"\x12\0" + pm.varint(1200) + counter(1100))
    yield early("accepted: padding is not zero", "RECORD_INVALID", pm.encode_frame(op(0)) + b"\0\0\1")
    yield early("accepted: open that is not the next", "STREAM_ID", [op(2)])
    yield early("accepted: 16 streams", None, [op(2 * i) for i in range(16)])
    yield early("accepted: 17 streams", "STREAM_LIMIT", [op(2 * i) for i in range(17)])
    yield early("accepted: 17 streams, which the settings allow", None, [op(2 * i) for i in range(17)], more=[[4, 17]])
    yield early("accepted: data for a stream that is not open", "STREAM_ID", [data])
    yield early("accepted and sent again", "STREAM_ID", [op(0), data], [op(0), data])
    yield early("refused and sent again", None, [op(0, form="new", name="a"), data], [op(0, form="new", name="a"), data], [op(2, form="index", index=0)], accepted=False)
    yield early("refused and not sent again", "STREAM_ID", [op(0), data], [op(2)], accepted=False)
    yield early("refused: a name from early data", "FRAME_ENCODING", [op(0, form="new", name="a")], [op(0, form="index", index=0)], accepted=False)
    yield early("refused: not parsed", None, b"\x0e\xff\x0a" + counter(1000), [op(0)], accepted=False)
    for n, error in ((15, None), (16, "SETTINGS_INVALID")):
        yield early(f"SETTINGS in record {n}, where flight 3 is record 0", error, [], *[[]] * n, [settings])
    for n, error in ((15, None), (16, N)):
        yield early(f"ATTESTATION in record {n}, where flight 3 is record 0", error, [], *[[]] * n, [att])
    # answers in P2
    def answers(name: str, error: Any, frames: Any, accepted: bool = True) -> Json:
        raw = frames if isinstance(frames, bytes) else pm.encode_frames(frames)
        return v("answers", name, error, accepted=accepted, area=raw.hex())
    grant = Frame("MAX_STREAM_DATA", {"stream": 0, "maximum": 5000})
    yield answers("accepted: nothing", None, [])
    yield answers("accepted: an answer", None, [data, stream_frame(0, b"y", True)])
    yield answers("accepted: all that may answer", None, [grant, stop, data, reset])
    yield answers("accepted: a skippable frame", None, [Frame("SKIPPABLE", {"type": 0x59, "bytes": b"grease"}), data])
    for fr in (Frame("PING", {"data": bytes(8)}), Frame("PONG", {"data": bytes(8)}), Frame("MAX_DATA", {"maximum": 5000}), Frame("MAX_STREAMS", {"maximum": 20, "window": 2048}), op(1),
               Frame("PRIORITY", {"stream": 0, "priority": 1}), Frame("CLOSE", {"layer": 0, "code": 1, "reason": ""}), drain, settings, att):
        yield answers(f"accepted: {fr.kind}", N, [fr])
    yield answers("accepted: data for a stream that was not in early data", "STREAM_ID", [stream_frame(2, b"y")])
    yield answers("accepted: a frame is cut off", "FRAME_ENCODING", b"\x12\0\x30" + counter(45))
    yield answers("accepted: padding is not zero", "RECORD_INVALID", b"\0\1")
    yield answers("refused: PING", None, [Frame("PING", {"data": bytes(8)})], accepted=False)
    yield answers("refused: data", None, [data], accepted=False)
    yield answers("refused: not parsed", None, b"\x0e\xff\x0a", accepted=False)
    # flight 3 of fallback
    def p3(name: str, error: Any, frames: Any, *records: list[Frame], head: int = 0) -> Json:
        raw = frames if isinstance(frames, bytes) else pm.encode_frames(frames)
        return v("p3", name, error, header=head, area=raw.hex(), areas=[pm.encode_frames(r).hex() for r in records])
    farewell = Frame("CLOSE", {"layer": 0, "code": 1, "reason": ""})
    yield p3("nothing", None, [], [op(0)])
    yield p3("close with the end bit", None, [farewell], head=pm.END)
    yield p3("end bit without close", "RECORD_INVALID", [op(0)], head=pm.END)
    yield p3("close without end bit", "RECORD_INVALID", [farewell])
    yield p3("a frame after close", N, [farewell, op(0)], head=pm.END)
    yield p3("an announcement above MAX_RECORD", "HANDSHAKE_FAILED", [], head=1)
    yield p3("control frames", None, [Frame("PING", {"data": bytes(8)}), Frame("PONG", {"data": bytes(8)}), Frame("MAX_DATA", {"maximum": 5000}),
                                      Frame("MAX_STREAMS", {"maximum": 20, "window": 2048}), drain])
    yield p3("open after drain", N, [drain], [op(0)])
    yield p3("streams", None, [op(0, form="new", name="a"), data, stop, reset], [op(2, form="index", index=0)])
    yield p3("unknown type", "FRAME_UNKNOWN", b"\x0e")
    yield p3("padding is not zero", "RECORD_INVALID", b"\0\1")
    yield p3("SETTINGS and ATTESTATION", None, [settings, att])
    for fr, error in ((settings, "SETTINGS_INVALID"), (att, N)):
        yield p3(f"{fr.kind}, and again in record 0", error, [fr], [fr])
        yield p3(f"{fr.kind} in record 15, P3 is no record", None, [], *[[]] * 15, [fr])
        yield p3(f"{fr.kind} in record 16", error, [], *[[]] * 16, [fr])
    # attestations
    static, seed, end = pm.public(rnd("initiator")), rnd("ed25519"), 4_000_000_000
    good = rules.attest(seed, end, static, 0)
    who = rules.identity(good, static, 0, end - 1)
    assert who is not None

    def attested(name: str, bound: bool, a: bytes, static: bytes = static, role: int = 0, now: Any = end - 1) -> Json:
        return v("attestation", name, None if bound else "UNBOUND", attestation=a.hex(), static=static.hex(), role=role, now=now,
                 identity=who.hex() if bound and who else None)

    def changed(at: int) -> bytes:
        return good[:at] + bytes([good[at] ^ 1]) + good[at + 1:]
    yield attested("of an initiator", True, good)
    yield attested("of a responder", True, rules.attest(seed, end, static, 1), role=1)
    yield attested("of an initiator, used by a responder", False, good, role=1)
    yield attested("of a responder, used by an initiator", False, rules.attest(seed, end, static, 1))
    yield attested("of another static key", False, good, static=pm.public(rnd("responder")))
    yield attested("expired", False, good, now=end + 1)
    yield attested("without a clock", False, good, now=None)
    yield attested("another public key", False, rules.attest(rnd("ed25519 of another"), end, static, 0)[:33] + good[33:])
    yield attested("a bit of not_after is changed", False, changed(40))
    yield attested("a later not_after", False, changed(35), now=end + 1)
    yield attested("a bit of the signature's R is changed", False, changed(41))
    yield attested("a bit of the signature's S is changed", False, changed(73))
    # What section 4.5 pins, since implementations differ: each of these meets the equation.
    order, neutral = 2**252 + 27742317777372353535851937790883648493, b"\1" + bytes(31)
    digest = lambda b: int.from_bytes(hashlib.sha512(b).digest(), "little")
    scalar = int.from_bytes(hashlib.sha512(seed).digest()[:32], "little") & (1 << 254) - 8 | 1 << 254
    text = b"peermux/1 static\0\0" + static + end.to_bytes(8, "big")

    def signed(key: bytes, r: bytes, s: int) -> bytes:
        return b"\1" + key + end.to_bytes(8, "big") + r + s.to_bytes(32, "little")
    public = good[1:33]
    yield attested("S is not less than L", False, signed(public, good[41:73], int.from_bytes(good[73:], "little") + order))
    yield attested("the public key is the neutral element", False, signed(neutral, public, scalar % order))
    yield attested("R is the neutral element", False, signed(public, neutral, digest(neutral + public + text) * scalar % order))
    yield attested("the public key and R are the neutral element", False, signed(neutral, neutral, 0))
    yield attested("one byte short", False, good[:-1])
    yield attested("one byte long", False, good + b"\0")
    yield attested("nothing but the scheme", False, b"\1")
    for scheme in (0, 2, 128, 255):
        yield attested(f"scheme {scheme}", False, bytes([scheme]) + good[1:])
    # the limit of a key
    for used, update, error in ((65_535, False, None), (65_536, False, "KEY_LIMIT"), (65_536, True, None), (65_536, False, "AUTH")):
        d = pm.Direction(1, key)
        d.n = d.used = used - 1
        d._after(pm.KEY_UPDATE if update else 0)
        last = bytearray(d.seal(0, b""))
        last[-1] ^= error == "AUTH"
        yield v("key_limit", f"after {used} records{' and a key update' if update else ''}{', tampered tag' if error == 'AUTH' else ''}", error, suite=1, key=key.hex(),
                used=used, key_update=update, bytes=last.hex())
    # handshakes
    p2 = payload(OFFER)

    def hs(base: str, name: str, flight: str, offset: int, new: bytes, side: Any, mode: Any, error: Any, **more: Any) -> Json:
        return v("handshake", f"{base}: {name}", error, base=base, flight=flight, offset=offset, bytes=new.hex(), **more, side=side, responder_mode=mode)
    H = "HANDSHAKE_FAILED"
    ik = {b["name"]: b | run_handshake(b) for b in handshake_vectors() if b["name"] in ("ik authenticated", "fallback unknown key")}

    def flipped(base: str, flight: str, offset: int) -> bytes:
        return bytes([bytes.fromhex(ik[base][flight])[offset] ^ 1])
    a, b = ik
    for base, side in ((a, "responder"), (b, "initiator"), (b, "responder")):
        own = ik[base] | {"initiator": ik[base]["initiator"] | {"static": ik[base]["responder"]["statics"][0]}}
        flights = run_handshake(own)
        yield v("own_key", f"{base}: {side}", "HANDSHAKE_FAILED", base=base, side=side,
                **{f: flights[f] if (f == "m2") == (side == "initiator") else None for f in ("m1", "m2", "flight3")})
    yield hs(a, "unchanged", "m1", 0, b"", None, "ik", None)
    yield hs(b, "unchanged", "m1", 0, b"", None, "fallback", None)
    for base in (a, b):
        yield hs(base, "a coefficient of e1 is 4095", "m1", 32, b"\xff\xff\xff", "responder", None, H)
        yield hs(base, "a coefficient of e1 is 3329", "m1", 32 + 1149, bytes([0, (3329 & 15) << 4, 3329 >> 4]), "responder", None, H)
        yield hs(base, "e is zero", "m1", 0, bytes(32), "responder", "fallback", H, p2=p2)
    for offset, what in ((0, "e"), (1184 + 31, "the last byte of e1"), (1216, "Enc(s)"), (1264, "Enc(P1)"), (2815, "the last byte")):
        yield hs(a, f"a bit of {what} of M1", "m1", offset, flipped(a, "m1", offset), "initiator", "fallback", H, p2=p2)
    for offset, what in ((0, "e"), (1216, "the random part"), (2815, "the last byte")):
        yield hs(b, f"a bit of {what} of M1", "m1", offset, flipped(b, "m1", offset), "initiator", "fallback", H)
    for base, mode in ((a, "ik"), (b, "fallback")):
        for offset, what in ((0, "e"), (32, "Enc(ct)"), (1136, "what follows Enc(ct)"), (1407, "the last byte")):
            yield hs(base, f"a bit of {what} of M2", "m2", offset, flipped(base, "m2", offset), "initiator", mode, H)
        yield hs(base, "e of M2 is zero", "m2", 0, bytes(32), "initiator", mode, H)
    yield hs(a, "a bit of flight 3", "flight3", 700, flipped(a, "flight3", 700), "responder", "ik", H)
    for offset in (0, 48, 1407):
        yield hs(b, f"a bit of byte {offset} of flight 3", "flight3", offset, flipped(b, "flight3", offset), "responder", "fallback", H)


def rule_vectors() -> Iterator[Json]:
    def shaping(name: str, a: tuple[int, rules.Shaping], b: tuple[int, rules.Shaping]) -> Json:
        return {"kind": "shaping", "name": name, "initiator": [a[0], a[1].setting()], "responder": [b[0], b[1].setting()]}
    none, buckets = rules.Shaping(), rules.Shaping(rules.BUCKETED)

    def const(size: int, interval: int) -> rules.Shaping:
        return rules.Shaping(rules.CONSTANT, size, interval)
    for name, a, b in (("nobody proposes", (16, none), (16, none)), ("one proposes bucketed", (1, buckets), (16, none)),
                       ("bucketed and constant", (16, buckets), (8, const(4, 5000))), ("one proposes constant", (16, none), (16, const(16, 10_000_000))),
                       ("both propose constant", (16, const(4, 5000)), (16, const(6, 9000))),
                       ("both propose constant, one of them more of all", (16, const(8, 1000)), (16, const(2, 2000))),
                       ("the size is above one's own MAX_RECORD", (16, none), (2, const(9, 1000))),
                       ("the size is above the other's MAX_RECORD", (3, none), (16, const(9, 1000))),
                       ("the greater size is above both", (5, const(16, 1000)), (4, const(1, 2000)))):
        yield shaping(name, a, b)
    for n in (*range(1, 34), 63, 64, 65, 100, 127, 129, 255, 257, 1000, 1023, 1025, 65_535, 65_537, 1_000_000, 2**32 + 1):
        yield {"kind": "padme", "name": str(n), "quanta": n}

    def replies(name: str, *records: list[Frame], receiver: str = "responder", opened: int = 0, **more: bool) -> Json:
        return {"kind": "replies", "name": name, "receiver": receiver, "settings": [], "opened": opened, **more, "areas": [pm.encode_frames(r).hex() for r in records]}
    open0, open1 = (Frame("OPEN", {"stream": i, "priority": 3, "window": 2048, "form": "none"}) for i in (0, 1))
    ping, again = (Frame("PING", {"data": bytes([i]) * 8}) for i in (1, 2))
    stop, known = Frame("STOP", {"stream": 0, "layer": 0, "code": BIG}), Frame("STOP", {"stream": 1, "layer": 1, "code": 0x13})
    yield replies("a ping", [ping])
    yield replies("two pings at once", [ping, again])
    yield replies("a pong that answers nothing", [Frame("PONG", {"data": bytes(8)})])
    yield replies("stop for a stream of the sender", [open0, stop])
    yield replies("stop twice", [open0, stop], [stop])
    yield replies("stop for a stream of the receiver", [stop], receiver="initiator", opened=1)
    yield replies("stop with a code of peermux", [known], opened=1)
    yield replies("stop after reset", [open0, Frame("RESET", {"stream": 0, "layer": 0, "code": 4}), stop])
    yield replies("reset needs no answer", [open0, Frame("RESET", {"stream": 0, "layer": 0, "code": 4})])
    yield replies("open after the receiver's drain", [open0, stream_frame(0, b"x")], opened=1, drained=True)
    yield replies("open by the responder after the receiver's drain", [open1], receiver="initiator", opened=1, drained=True)
    yield replies("before the decision", [open0, ping, stop, stream_frame(0, b"x", True)], undecided=True)
    t = 1_760_000_000_000

    def strike(name: str, *offers: tuple[int, str, Any], started: int = t - 120_000, key_made: int = t - 10**9, capacity: int = 100) -> Json:
        return {"kind": "strike", "name": name, "started": started, "key_made": key_made, "capacity": capacity,
                "offers": [{"now": t + now, "ephemeral": rnd("strike " + e).hex(), "timestamp": ts if ts is None else t + ts} for now, e, ts in offers]}
    yield strike("new keys", (0, "a", 0), (1, "b", -500), (1, "c", 500))
    yield strike("a replay", (0, "a", 0), (0, "b", 0), (1, "a", 0), (59_999, "a", 0), (60_000, "a", 0), (60_001, "a", 0))
    yield strike("a replay of what was ahead of the clock", (0, "a", 60_000), (119_999, "a", 60_000), (120_000, "a", 60_000), (120_001, "a", 60_000))
    yield strike("the window", (0, "a", -60_000), (0, "b", 60_000), (0, "c", -60_001), (0, "d", 60_001))
    yield strike("no TIMESTAMP", (0, "a", None), (0, "b", 0))
    yield strike("full", (0, "a", 0), (1, "b", 0), (2, "c", 1), (60_000, "d", 60_000), (60_001, "e", 60_001), (60_002, "f", 60_002), capacity=2)
    yield strike("full, and what is farther from the clock comes", (0, "a", 0), (0, "b", 1), (0, "c", 2), (0, "d", -2), (0, "e", 1), (0, "f", -1), capacity=2)
    yield strike("full, and what was dropped comes again", (0, "a", -500), (0, "b", 0), (1, "c", 1), (1, "a", -500), (1, "d", -501), (1, "e", -499),
                 (59_000, "a", -500), (59_000, "f", 59_000), capacity=2)
    yield strike("full, and two are equally far", (0, "a", -500), (0, "b", 500), (0, "c", 0), (0, "b", 500), (0, "d", -500), (0, "e", 499), capacity=2)
    yield strike("the band", (0, "a", 60_000), (0, "b", 50_000), (0, "c", 0), (0, "d", 1), (0, "e", 55_000), (0, "f", 49_999), (120_000, "g", 60_001),
                 (120_000, "h", 60_000), capacity=2)
    yield strike("the band is passed before it grows", (0, "a", 60_000), (0, "b", 0), (60_000, "c", 120_000), (60_000, "d", 60_000), (60_000, "e", 60_001),
                 (60_001, "f", 60_002), (60_001, "g", 119_000), capacity=1)
    yield strike("a flood from ahead of the clock", *((n, f"flood {n}", n + 60_000) for n in range(8)), *((n, f"honest {n}", n) for n in range(8, 12)),
                 *((n, f"later flood {n}", n + 60_000) for n in range(60_000, 60_006)), *((n, f"later honest {n}", n) for n in range(60_010, 60_014)), capacity=4)
    yield strike("far ahead of the window", (0, "a", 2**63 - t), (0, "b", 2**64 - 1 - t), (0, "c", 60_001), (1, "d", 1), (1, "e", 1), (120_002, "f", 120_002), capacity=1)
    yield strike("ahead of the window and then within it", (0, "a", 60_001), (1, "a", 60_001), (120_001, "a", 60_001), (120_001, "b", 120_001))
    yield strike("a clock that is set back", (0, "a", 0), (200_000, "b", 200_000), (0, "a", 0), (0, "c", 200_000))
    yield strike("young, and then again", (0, "a", 60_000), (60_000, "a", 60_000), (60_001, "b", 60_001), started=t - 60_000)
    yield strike("young", (0, "a", 0), (59_999, "b", 59_999), (60_000, "c", 60_000), started=t - 60_000)
    yield strike("young, and the key is younger", (0, "a", 0), (1, "a", 0), (2, "b", 0), started=t - 10, key_made=t - 5)
    yield strike("young, and the key was made just before", (0, "a", 0), started=t - 5, key_made=t - 10)


FILES: dict[str, tuple[Callable[[], Iterator[Json]], Callable[..., Json]]] = {
    "varints": (varint_vectors, run_varint), "frames": (frame_vectors, run_frame), "handshake": (handshake_vectors, run_handshake),
    "records": (record_vectors, run_records), "rules": (rule_vectors, run_rule), "negative": (negative_vectors, run_negative)}


def run(stem: str, v: Json, handshakes: dict[str, Json]) -> Json:
    return run_negative(v, handshakes) if stem == "negative" else FILES[stem][1](v)


def make() -> int:
    DIR.mkdir(exist_ok=True)
    handshakes: dict[str, Json] = {}
    for stem, (source, _) in FILES.items():
        done = []
        for v in source():
            out = run(stem, v, handshakes)
            if stem == "negative":  # what is expected is written by hand above
                wrong = {k: (v[k], out[k]) for k in out if v[k] != out[k]}
                assert not wrong, f"{v['name']}: expected and got {wrong}"
            done.append(v | out)
            if stem == "handshake":
                handshakes[v["name"]] = v | out
        names = [v.get("name", v.get("value")) for v in done]
        assert len(set(zip(names, [v.get("kind") for v in done]))) == len(names), "names must differ"
        lines = ",\n".join(map(dumped, done))
        text = f'{{"about":{json.dumps(ABOUT[stem])},"vectors":[\n{lines}\n]}}\n'
        (DIR / f"{stem}.json").write_text(text, encoding="utf-8")
        print(f"{stem}.json: {len(done)} vectors, {len(text)} bytes")
    return 0


def check() -> int:
    handshakes: dict[str, Json] = {}
    total = bad = 0
    for stem in FILES:
        vectors = loaded(stem)
        if stem == "handshake":
            handshakes = {v["name"]: v for v in vectors}
        for v in vectors:
            total += 1
            try:
                out = run(stem, v, handshakes)
                wrong = [k for k in out if v.get(k) != out[k]]
            except Exception as e:  # whatever it is, this vector does not hold
                wrong = [f"{type(e).__name__}: {e}"]
            if wrong:
                bad += 1
                print(f"{stem}.json: {v.get('name', v.get('value'))}: differs in {', '.join(wrong)}", file=sys.stderr)
    print(f"{total} vectors checked, {bad} differ")
    return 1 if bad or not total else 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in ("make", "check"):
        sys.exit(__doc__)
    sys.exit(make() if sys.argv[1] == "make" else check())
