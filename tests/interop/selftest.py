#!/usr/bin/env python3
"""Lets the Python peer talk to itself: every option of peer.py, in both roles. Needs nothing but what requirements.txt names.

    selftest.py [CASE...]"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peermux as pm
from rules import padme
from run import DIALER, KNOWN, LISTENER, OLD

PEER = [sys.executable, str(Path(__file__).resolve().parent / "peer.py")]
STALE = ["--hint", OLD[1]]
ANY = ["--unknown"]
PREVIOUS = ["--known", OLD[1]]
SEED_I, SEED_R = "44" * 32, "55" * 32
LATER, PAST = "4000000000", "1000000000"
ATTEST_I, ATTEST_R = ["--attest", SEED_I, LATER], ["--attest", SEED_R, LATER]
V = ["--verify"]
EARLY = 100_000 + 300 + 3000


def who(seed: str) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed)).public_key().public_bytes_raw().hex()


@dataclass
class Case:
    """What both sides must report; `code` is the peermux code that both CLOSEs have, or those of dialer and listener."""
    name: str
    dial: list[str]
    listen: list[str] = field(default_factory=list)
    dialer: dict[str, Any] = field(default_factory=dict)
    listener: dict[str, Any] = field(default_factory=dict)
    ok: tuple[bool, bool] = (True, True)
    closes: tuple[set[int], set[int]] = ({0}, {0})


def both(**members: Any) -> Any:
    return {"dialer": members, "listener": members}


accepted, refused = both(early="accepted", bytes=EARLY), both(early="refused", bytes=EARLY)
CONSTANT = "constant:4:3000"
CASES = [
    Case("plain, ik", KNOWN, **both(mode="ik", early=None, identity=None, bytes=100_000)),
    Case("plain, fallback", ANY, **both(mode="fallback", bytes=100_000)),
    *(Case(f"decides, {name}", known, ["--decides"], **both(early=None, bytes=100_000)) for name, known in (("ik", KNOWN), ("fallback", STALE))),
    Case("decides, early accepted", [*KNOWN, "--early"], ["--early", "accept", "--decides"], accepted["dialer"], accepted["listener"]),
    Case("early accepted", [*KNOWN, "--early"], ["--early", "accept"], accepted["dialer"] | {"early_in_p2": 36}, accepted["listener"]),
    Case("early accepted, anonymous, aes", [*KNOWN, "--early", "--anonymous", "--suite", "2"], ["--early", "accept", "--suite", "2"], **accepted),
    Case("early refused", [*KNOWN, "--early"], ["--early", "refuse"], **refused),
    Case("early refused in fallback", [*STALE, "--early"], ["--early", "accept"], {"early": "refused", "mode": "fallback", "bytes": EARLY}, {"early": None, "bytes": EARLY}),
    Case("early refused: wrong clock", [*KNOWN, "--early", "--clock", "-70"], ["--early", "accept"], **refused),
    Case("early accepted: tolerable clock", [*KNOWN, "--early", "--clock", "50"], ["--early", "accept"], **accepted),
    Case("early refused: young register", [*KNOWN, "--early"], ["--early", "accept", "--key-age", "1000"], **refused),
    Case("early refused: previous key", [*PREVIOUS, "--early"], ["--early", "accept", "--previous", OLD[0]], **refused),
    Case("early accepted, shaped: answers in P2 only", [*KNOWN, "--early", "--shaping", "bucketed"], ["--early", "accept"],
         accepted["dialer"] | {"early_in_p2": 36}, accepted["listener"] | {"early_answered": 36}),
    Case("attested both ways, ik", [*KNOWN, *ATTEST_I, *V], [*ATTEST_R, *V], {"identity": who(SEED_R)}, {"identity": who(SEED_I)}),
    Case("attested both ways, fallback", [*ANY, *ATTEST_I, *V], [*ATTEST_R, *V], {"identity": who(SEED_R)}, {"identity": who(SEED_I)}),
    Case("attested in frames, ik", [*KNOWN, *ATTEST_I, "--attest-frame", *V], [*ATTEST_R, "--attest-frame", *V], {"identity": who(SEED_R)}, {"identity": who(SEED_I)}),
    Case("attested in frames, fallback", [*ANY, *ATTEST_I, "--attest-frame", *V], [*ATTEST_R, "--attest-frame", *V], {"identity": who(SEED_R)}, {"identity": who(SEED_I)}),
    Case("attested previous key", [*PREVIOUS, *V], ["--previous", OLD[0], *ATTEST_R], {"identity": who(SEED_R)}),
    Case("attested, anonymous, early accepted", [*KNOWN, "--anonymous", *ATTEST_I, "--early"], ["--early", "accept", *V], accepted["dialer"], {"identity": who(SEED_I)}),
    Case("attestation expired", [*KNOWN, "--attest", SEED_I, PAST], V, {}, {"identity": None}),
    Case("attestation not looked at", [*KNOWN, *ATTEST_I], [], {}, {"identity": None}),
    Case("bucketed by the dialer, ik", [*KNOWN, "--shaping", "bucketed"], **both(shaping=1, bytes=100_000)),
    Case("bucketed by the listener, fallback", ANY, ["--shaping", "bucketed"], **both(shaping=1, bytes=100_000)),
    Case("constant by the dialer, ik", [*KNOWN, "--shaping", CONSTANT], **both(shaping=2 | 3 << 4 | 3000 << 8, bytes=100_000)),
    Case("constant by both, fallback", [*ANY, "--shaping", CONSTANT], ["--shaping", "constant:6:4000"], **both(shaping=2 | 5 << 4 | 3000 << 8, bytes=100_000)),
    Case("constant over bucketed, early refused", [*KNOWN, "--early", "--shaping", "bucketed"], ["--shaping", CONSTANT], **both(shaping=2 | 3 << 4 | 3000 << 8, early="refused")),
    Case("constant, small records", [*KNOWN, "--script", "small", "--shaping", CONSTANT], [], **both(shaping=2 | 3000 << 8, bytes=30_000)),
    Case("shaping refused by the dialer, ik", [*KNOWN, "--refuse-shaping"], ["--shaping", "bucketed"], closes=({16}, {0})),
    Case("shaping refused by the dialer, fallback", [*ANY, "--refuse-shaping"], ["--shaping", CONSTANT], closes=({16}, {0})),
    Case("shaping refused by the listener, ik", [*KNOWN, "--shaping", "bucketed"], ["--refuse-shaping"], ok=(False, True), closes=({0}, {16})),
    Case("shaping refused by the listener, fallback", [*ANY, "--shaping", CONSTANT], ["--refuse-shaping"], ok=(False, True), closes=({0}, {16})),
    Case("drain by the dialer", [*KNOWN, "--script", "drain"], [], {"drained": False, "bytes": 100_000}, {"drained": True}),
    Case("drain by the listener, with an OPEN that crosses it", [*KNOWN, "--script", "cross"], ["--drain"], {"drained": True, "bytes": 100_000}, {"drained": False}),
    Case("drain by the listener, fallback", [*ANY, "--script", "cross"], ["--drain"], {"drained": True, "bytes": 100_000}),
    Case("drain by both", [*KNOWN, "--script", "drain"], ["--drain"], **both(drained=True, bytes=100_000)),
    Case("idle, by the dialer's setting", [*KNOWN, "--script", "idle", "--idle", "400"], ["--idle", "5000"], closes=({0, 15}, {0, 15})),
    Case("idle, by the listener's setting", [*ANY, "--script", "idle"], ["--idle", "400"], closes=({0, 15}, {0, 15})),
    Case("idle, kept alive", [*KNOWN, "--script", "alive", "--idle", "600", "--keepalive", "300"], [], **both(bytes=100_000)),
    Case("idle, kept alive by the listener", [*KNOWN, "--script", "alive", "--idle", "600"], ["--keepalive", "300"], **both(bytes=100_000)),
    Case("idle, constant shaping keeps alive", [*KNOWN, "--script", "alive", "--idle", "300", "--shaping", "constant:1:20000"], [], **both(bytes=100_000)),
    Case("close at once, fallback", [*ANY, "--script", "close"]),
]


def talk(case: Case) -> list[str]:
    """What is wrong."""
    server = subprocess.Popen([*PEER, "listen", "0", "--key", LISTENER[0], *case.listen], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        hello = server.stderr.readline()
        port = re.match(r"listening on port (\d+) ", hello)
        if not port:
            return [hello + server.communicate(timeout=30)[1]]
        client = subprocess.run([*PEER, "dial", "127.0.0.1", port[1], "--key", DIALER[0], *case.dial], capture_output=True, text=True, timeout=60)
        out, err = server.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        return ["it never ends"]
    finally:
        server.kill()
    try:
        sides = json.loads(client.stdout), json.loads(out)
    except json.JSONDecodeError:
        return [client.stdout, client.stderr, out, err]
    wrong = []
    for got, want, ok, closes, status in zip(sides, (case.dialer, case.listener), case.ok, case.closes, (client.returncode, server.returncode)):
        role = got["role"]
        want = want | {"ok": ok}
        wrong += [f"{role}: {k} is {got.get(k)!r}, and not {v!r}" for k, v in want.items() if got.get(k) != v]
        if status != (not ok):
            wrong.append(f"{role}: exit code {status}")
        if not got.get("my_close") or got["my_close"][1] not in closes and "close" not in case.dial:
            wrong.append(f"{role}: closed with {got.get('my_close')}")
        if any(padme(b) != b for b in got.get("bursts", [])):
            wrong.append(f"{role}: a burst that is not padded")
    if sides[0].get("records_sent") != sides[1].get("records_received") or sides[1].get("records_sent") != sides[0].get("records_received"):
        wrong.append("records are missing")
    return wrong and [*wrong, client.stdout.strip() + client.stderr, out.strip() + err]


def main() -> int:
    failed = 0
    for case in CASES:
        if len(sys.argv) > 1 and case.name not in sys.argv[1:]:
            continue
        started = time.monotonic()
        wrong = talk(case)
        print(f"{'FAIL' if wrong else 'ok  '}  {case.name} ({time.monotonic() - started:.1f} s)", *wrong, sep="\n      ", flush=True)
        failed += bool(wrong)
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
