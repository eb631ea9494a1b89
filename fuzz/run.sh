#!/bin/sh
# run.sh [SECONDS [TARGET...]]: builds the fuzz targets, replays their seeds and what earlier runs found, and runs each for SECONDS
# (60; 0 replays only). Exits with an error if any input crashes; the input is then in artifacts/.
set -eu
cd "$(dirname "$0")"
seconds=${1:-60}
[ $# -gt 0 ] && shift
targets=${*:-varint frames stranger payloads records ops}
# No sanitizer: there is no unsafe code of ours to find anything in, and without one the targets are several times as fast.
fuzz="cargo +nightly fuzz"
command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
$fuzz build -s none
for target in $targets; do
    mkdir -p "corpus/$target"
    echo "== $target"
    $fuzz run -s none "$target" "corpus/$target" "seeds/$target" -- -runs=0 -verbosity=0
    if [ "$seconds" -gt 0 ]; then
        $fuzz run -s none "$target" "corpus/$target" "seeds/$target" -- -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1
    fi
done
