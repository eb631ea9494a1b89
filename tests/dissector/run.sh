#!/bin/sh
# Captures short connections on a loopback interface of its own, and checks what tools/peermux.lua makes of them.
#
#   tests/dissector/run.sh
#
# Needs root, tshark, and unshare and ip (util-linux, iproute2); without them it says so and ends with 77. With lua5.2 or lua5.4 it checks the dissector's
# cryptography against the vectors too.
set -eu
cd "$(dirname "$0")/../.."

if [ "${1:-}" != inside ]; then
    for lua in lua5.2 lua5.4; do
        if command -v "$lua" > /dev/null && command -v python3 > /dev/null; then
            python3 tests/dissector/records.py | "$lua" tests/dissector/crypto.lua tools/peermux.lua
        fi
    done
    for tool in tshark unshare ip; do
        command -v "$tool" > /dev/null || { echo "there is no $tool (Debian: tshark, util-linux, iproute2)"; exit 77; }
    done
    [ "$(id -u)" = 0 ] || { echo "a capture needs root"; exit 77; }
    cargo build --locked --release -p peermux-std --example mio
    unshare -n true 2> /dev/null || { echo "no network namespace can be made"; exit 77; }
    exec unshare -n "$0" inside
fi

target=${CARGO_TARGET_DIR:-target}
work=$(mktemp -d)
pids=
trap 'kill $pids 2> /dev/null || true; rm -rf "$work"' EXIT
# As on Ethernet, so that records are spread over segments.
ip link set lo mtu 1500 gso_max_segs 1 up

# Until `$2` is in the file `$1`, for 20 seconds.
await() {
    for _ in $(seq 200); do
        if grep -q "$2" "$1" 2> /dev/null; then return; fi
        sleep 0.1
    done
    echo "nothing came: $2"; cat "$1"; exit 1
}

tshark -i lo -B 32 -w "$work/capture.pcapng" -f 'tcp port 7400' 2> "$work/tshark" & pids=$!
await "$work/tshark" 'Capture started\|Capturing on'
sleep 1
"$target/release/examples/mio" server 127.0.0.1:7400 > "$work/server" & pids="$pids $!"
await "$work/server" 'with key'
key=$(sed 's/.* //' "$work/server")
# In IK and in fallback.
"$target/release/examples/mio" client 127.0.0.1:7400 "$key" 2 --key-log "$work/keys"
"$target/release/examples/mio" client 127.0.0.1:7400 any 1 --key-log "$work/keys"
sleep 2
kill $pids
wait
pids=

read_capture() {
    tshark -X lua_script:tools/peermux.lua -o "peermux.key_log:$1" -o tcp.reassemble_out_of_order:TRUE -r "$work/capture.pcapng" "$2" 2>&1
}
read_capture "$work/keys" -V > "$work/details"
read_capture "$work/keys" -n > "$work/once"
read_capture "$work/keys" -2 > "$work/twice"
read_capture '' -n > "$work/without"

# `$3` is found in the file `$2` exactly, or with a + at least, `$1` times.
expect() {
    found=$(grep -c -- "$3" "$work/$2" || true)
    if [ "$found" != "$1" ] && { [ "$1" = "${1%+}" ] || [ "$found" -lt "${1%+}" ]; }; then
        echo "$found times instead of $1 in what was read ($2): $3"
        exit 1
    fi
}
expect 3 once 'peermux .* M1'
expect 3 once 'peermux .* M2'
expect 3 once 'peermux .* flight 3'
expect 2 once 'flight 3, i2r record 0'
expect 3 once 'OPEN 0 example/echo'
expect 3 once 'OPEN 2 example/bulk'
expect 30+ once 'STREAM 0, 512 bytes'
expect 30+ once 'STREAM 2, [0-9]* bytes'
expect 3 once 'CLOSE NO_ERROR "done"'
expect 3+ details 'Protocol: example/bulk'
expect 1+ details 'Reassembled TCP Segments'
expect 0 details 'annot be read\|Lua Error\|stray'
expect 0 without 'OPEN'
expect 3 without 'peermux .* M1'
grep peermux "$work/once" > "$work/1" && grep peermux "$work/twice" > "$work/2"
cmp "$work/1" "$work/2"
echo "the dissector: $(grep -c 'record [0-9]* \[' "$work/once") packets with records, all read"
