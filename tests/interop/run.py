#!/usr/bin/env python3
"""Lets the Rust peer and the Python peer talk to each other over TCP, each in both roles; and before, lets Python check the vectors.

    run.py [CASE...]

Builds the Rust peer (`cargo build -p peermux-tests --example interop_peer`), and installs what the Python peer needs into a virtual
environment in a temporary directory. Prints one line for each case, and exits with 1 if any fails. Needs nothing but Python and cargo."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TIMEOUT = 60

# Private static keys, and the public ones that belong to them.
DIALER = ("11" * 32, "7b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13")
LISTENER = ("22" * 32, "0faa684ed28867b97f4a6a2dee5df8ce974e76b7018e3f22a1c4cf2678570f20")
OLD = ("33" * 32, "7b0d47d93427f8311160781c7c733fd89f88970aef490d8aa0ee19a4cb8a1b14")


@dataclass
class Case:
    """A script of the dialer, under some arguments, and what must come of it."""
    name: str
    dial: list[str]
    mode: str
    listen: list[str] = field(default_factory=list)
    suite: int = 1
    bytes: int = 100_000
    dialers: tuple[str, ...] = ("python", "rust")
    early: Optional[str] = None


KNOWN = ["--known", LISTENER[1]]
MULTI = sum(20_000 + i for i in range(8))
EARLY = 300 + 3000
CASES = [
    Case("ik", KNOWN, "ik"),
    Case("ik, previous key", ["--known", OLD[1]], "ik", ["--previous", OLD[0]]),
    Case("fallback, unknown key", ["--unknown"], "fallback"),
    Case("fallback, stale key", ["--hint", OLD[1]], "fallback"),
    Case("ik, anonymous", [*KNOWN, "--anonymous"], "ik"),
    Case("fallback, anonymous", ["--unknown", "--anonymous"], "fallback"),
    Case("ik, aes", [*KNOWN, "--suite", "2"], "ik", ["--suite", "2"], 2),
    Case("fallback, aes", ["--unknown", "--suite", "2"], "fallback", ["--suite", "2"], 2),
    Case("ik, aes not wanted by the listener", [*KNOWN, "--suite", "2"], "ik"),
    Case("ik, key updates", [*KNOWN, "--script", "keyupdate"], "ik", dialers=("python",)),
    Case("fallback, key updates, aes", ["--unknown", "--script", "keyupdate", "--suite", "2"], "fallback", ["--suite", "2"], 2, dialers=("python",)),
    Case("ik, 8 streams", [*KNOWN, "--script", "multi"], "ik", bytes=MULTI),
    Case("fallback, 8 streams", ["--unknown", "--script", "multi"], "fallback", bytes=MULTI),
    Case("ik, all settings absent", [*KNOWN, "--script", "small"], "ik", bytes=30_000, dialers=("python",)),
    Case("ik, no stream", [*KNOWN, "--script", "ping"], "ik", bytes=0, dialers=("python",)),
    Case("ik, close at once", [*KNOWN, "--script", "close"], "ik", bytes=0),
    Case("fallback, close at once", ["--unknown", "--script", "close"], "fallback", bytes=0),
    Case("ik, drain", [*KNOWN, "--script", "drain"], "ik"),
    Case("fallback, drain", ["--unknown", "--script", "drain"], "fallback"),
    Case("ik, early data", [*KNOWN, "--early"], "ik", ["--early", "accept"], bytes=EARLY + 100_000, early="accepted"),
    Case("ik, early data and 8 streams, anonymous", [*KNOWN, "--early", "--anonymous", "--script", "multi"], "ik", ["--early", "accept"], bytes=EARLY + MULTI, early="accepted"),
    Case("ik, early data, aes", [*KNOWN, "--early", "--suite", "2"], "ik", ["--early", "accept", "--suite", "2"], 2, EARLY + 100_000, early="accepted"),
    Case("ik, early data is refused", [*KNOWN, "--early"], "ik", ["--early", "refuse"], bytes=EARLY + 100_000, early="refused"),
    Case("fallback, early data for a stale key", ["--hint", OLD[1], "--early"], "fallback", ["--early", "accept"], bytes=EARLY + 100_000, early="refused"),
]


def run(command: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=True, text=True, **more)


def build_python(folder: Path) -> list[str]:
    venv.create(folder, with_pip=True)
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(HERE / "requirements.txt")])
    return [python, str(HERE / "peer.py")]


def build_rust() -> list[str]:
    command = ["cargo", "build", "--quiet", "-p", "peermux-tests", "--example", "interop_peer", "--message-format", "json-render-diagnostics"]
    out = run(command, cwd=ROOT, stdout=subprocess.PIPE).stdout
    built = [json.loads(line).get("executable") for line in out.splitlines() if '"interop_peer"' in line]
    return [next(path for path in built if path)]


def talk(case: Case, dialer: list[str], listener: list[str]) -> list[str]:
    """What is wrong."""
    server = subprocess.Popen([*listener, "listen", "0", "--key", LISTENER[0], *case.listen], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        hello = server.stderr.readline()
        port = re.match(r"listening on port (\d+) ", hello)
        if not port:
            return [f"the listener says {hello + server.communicate(timeout=TIMEOUT)[1]!r}"]
        client = subprocess.run([*dialer, "dial", "127.0.0.1", port[1], "--key", DIALER[0], *case.dial], capture_output=True, text=True, timeout=TIMEOUT)
        out, err = server.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return ["it never ends"]
    finally:
        server.kill()
    try:
        dialled, accepted = json.loads(client.stdout), json.loads(out)
    except json.JSONDecodeError:
        return [f"the dialer says {client.stderr or client.stdout!r}, the listener {err or out!r}"]
    if early := accepted.get("closed_in_flight_3"):
        # The Rust listener knows nothing more of such a connection.
        closed = early == "application code 77 (at once)" and "close" in case.dial and dialled.get("mode") == case.mode
        good = closed and dialled["ok"] and accepted["ok"] and client.returncode == server.returncode == 0
        return [] if good else [f"dialer: {client.stdout.strip()}", f"listener: {out.strip()}"]
    anonymous = "--anonymous" in case.dial
    expected = {"ok": (True, True), "mode": (case.mode, case.mode), "suite": (case.suite, case.suite), "bytes": (case.bytes, case.bytes)}
    wrong = [f"{name}: {got}, and not {want}" for name, want in expected.items()
             if (got := (dialled.get(name), accepted.get(name))) != want]
    if client.returncode or server.returncode:
        wrong.append(f"exit codes {client.returncode} and {server.returncode}")
    if not dialled.get("h") or dialled["h"] != accepted.get("h"):
        wrong.append("the channel bindings differ")
    proved = OLD[1] if "--previous" in case.listen else LISTENER[1]
    if dialled.get("peer") != proved:
        wrong.append("the dialer sees another key")
    if accepted.get("anonymous") != anonymous or (accepted.get("peer") == DIALER[1]) == anonymous:
        wrong.append("the listener sees another key")
    # The Rust peers know less: the listener says of accepted and of refused early data that its streams are early, and the dialer says nothing.
    seen = accepted.get("early")
    listened = bool(case.early) if seen == "early" else (seen == "accepted") == (case.early == "accepted")
    if dialled.get("early", case.early) != case.early or not listened:
        wrong.append("early data went another way")
    if dialled.get("records_sent") != accepted.get("records_received") or accepted.get("records_sent") != dialled.get("records_received"):
        wrong.append("records are missing")
    return wrong and [*wrong, f"dialer: {client.stdout.strip()}", f"listener: {out.strip()}"]


def main() -> int:
    wanted = sys.argv[1:]
    failed = count = 0
    with tempfile.TemporaryDirectory(prefix="peermux-interop-") as folder:
        peers = {"python": build_python(Path(folder)), "rust": build_rust()}
        if not wanted:
            run([peers["python"][0], str(HERE / "vectors.py"), "check"])
        has_aes = 2 in json.loads(run([*peers["rust"], "suites"], stdout=subprocess.PIPE).stdout)["suites"]
        for case in CASES:
            if wanted and case.name not in wanted:
                continue
            for dialer in case.dialers:
                listener = "rust" if dialer == "python" else "python"
                name = f"{dialer} dials {listener}: {case.name}"
                if case.suite == 2 and not has_aes:
                    print(f"skip  {name}: this machine does not compute AES", flush=True)
                    continue
                wrong = talk(case, peers[dialer], peers[listener])
                print(f"{'FAIL' if wrong else 'ok  '}  {name}", *wrong, sep="\n      ", flush=True)
                failed += bool(wrong)
                count += 1
    print(f"{count} cases, {failed} failed")
    return 1 if failed or not count else 0


if __name__ == "__main__":
    sys.exit(main())
