#!/bin/sh
# Runs the Verifpal models here and compares every answer with expected.txt.
#
#   docs/verifpal/check.sh                 all rows
#   docs/verifpal/check.sh ik              the rows of ik.vp
#   docs/verifpal/check.sh ik kcir         one variant
#   docs/verifpal/check.sh --expand ik kcir    prints the model of a variant and ends
#
# Exit: 0 all as expected, 1 a difference, a failure or a timeout, 2 verifpal is missing.
# VERIFPAL names the program (default: verifpal), VERIFPAL_TIMEOUT the seconds for one
# row (default 300). The answers were recorded with Verifpal 1.6.7.
set -u
cd "$(dirname "$0")" || exit 1
prog=${VERIFPAL:-verifpal}
limit=${VERIFPAL_TIMEOUT:-300}

# "//+ a,b| text" is text in the variants a and b; "text //- a,b" is text in all others.
expand() { # model variant
	awk -v v="$2" '
	function has(list,   a, n, i) {
		n = split(list, a, ",")
		for (i = 1; i <= n; i++) if (a[i] == v) return 1
		return 0
	}
	/^[ \t]*\/\/\+ [a-z0-9,]+\|/ {
		names = $0; sub(/^[ \t]*\/\/\+ /, "", names); sub(/\|.*$/, "", names)
		text = $0; sub(/^[^|]*\|/, "", text)
		if (has(names)) print text
		next
	}
	/\/\/- [a-z0-9,]+$/ {
		names = $0; sub(/^.*\/\/- /, "", names)
		text = $0; sub(/[ \t]*\/\/- [a-z0-9,]+$/, "", text)
		if (!has(names)) print text
		next
	}
	{ print }' "$1.vp"
}

if [ "${1:-}" = --expand ]; then
	expand "$2" "${3:-base}"
	exit
fi
command -v "$prog" >/dev/null 2>&1 || { echo "check.sh: $prog not found" >&2; exit 2; }
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

bad=0 rows=0
while read -r model variant sessions want; do
	case $model in ''|'#'*) continue ;; esac
	[ -z "${1:-}" ] || [ "$1" = "$model" ] || continue
	[ -z "${2:-}" ] || [ "$2" = "$variant" ] || continue
	rows=$((rows + 1))
	file=$dir/$model-$variant.vp
	expand "$model" "$variant" >"$file"
	start=$(date +%s)
	got=$(timeout "$limit" "$prog" verify "$file" --sessions "$sessions" --result-code --quiet --color never </dev/null 2>&1)
	rc=$?
	got=$(printf '%s\n' "$got" | tail -n 1)
	took=$(($(date +%s) - start))
	if [ $rc -eq 0 ] && [ "$got" = "$want" ]; then
		echo "ok    $model $variant, sessions $sessions: $got (${took} s)"
	else
		echo "DIFF  $model $variant, sessions $sessions: expected $want, got '$got', exit $rc (${took} s)"
		bad=$((bad + 1))
	fi
done <expected.txt
[ $rows -gt 0 ] || { echo "check.sh: no such row in expected.txt" >&2; exit 1; }
echo "$rows rows, $bad different"
[ $bad -eq 0 ]
