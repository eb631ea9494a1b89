#!/usr/bin/env python3
"""Writes the numbered files in seeds/ from the test vectors: small inputs that get far. The others are inputs that found something."""

import json
import random
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEEDS = HERE / "seeds"


def vectors(stem):
    return json.loads((HERE.parent / "peermux-core" / "vectors" / f"{stem}.json").read_text())["vectors"]


def short(n):
    return n.to_bytes(2, "big")


def write(target, inputs):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("[0-9]*"):
        old.unlink()
    # What is long teaches a fuzzer nothing that something short does not.
    for number, data in enumerate(sorted({data for data in inputs if len(data) <= 400})):
        (folder / f"{number:03}").write_bytes(data)


negative = vectors("negative")
frames = [bytes.fromhex(v["hex"]) for v in vectors("frames")]
frames = [f for f in frames if len(f) <= 64]
every = b"".join(f for f in frames if f[0] not in (0, 0x0A, 0x10, 0x11))
# Which streams they are for does not matter: a fuzzer finds that out.
write("varint", [bytes.fromhex(v["hex"]) for v in vectors("varints")])
write("frames", [*frames, every, *(bytes.fromhex(v["hex"]) for v in negative if v["kind"] == "area" and v["error"] is None)])

which = {"P1": 0, "P3": 1, "P2-IK": 2, "P2-fallback": 3}
payloads = [(which[v["payload"]], bytes.fromhex(v["plaintext"])) for v in negative if v["kind"] == "payload" and v["error"] is None]
for v in vectors("handshake"):
    for kind, p in ((0, v["p1"]), (2 if v["mode"] == "ik" else 3, v["p2"]), (1, v["p3"])):
        if p:
            tlvs = b"".join(bytes([t, len(bytes.fromhex(x))]) + bytes.fromhex(x) for t, x in p["tlvs"])
            payloads.append((kind, (bytes([p.get("header", 0)]) if kind == 1 else b"") + short(len(tlvs)) + tlvs))
record = b"\0" + every[:60]
write("payloads", [bytes([kind, 3]) + short(len(p)) + p + record for kind, p in payloads])

areas = [v for v in negative if v["kind"] == "connection"]
write("records", [bytes([v["receiver"] == "responder", 3]) + b"".join(b"\1" + short(len(a) // 2) + b"\0" + bytes.fromhex(a) + b"\x10" for a in v["areas"])
                  for v in areas])
write("stranger", [bytes([pick, options]) + short(32) + bytes(range(32)) + b"\x12" + short(0x8000 | 2784) + b"\x12" + short(0x8000 | 1408) + b"\x12"
                   for pick in (0, 1, 6, 0x81) for options in (3, 7)])
dice = random.Random(1)
write("ops", [dice.randbytes(8 + 4 * n) for n in (0, 10, 40, 80, 90)])
