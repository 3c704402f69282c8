#!/usr/bin/env bash
# Take down what up.sh has started: processes, token and Ray's files on every host. The environment and the runs stay.
#
#     cluster/down.sh            all but the environment and the runs
#     cluster/down.sh --purge    these too
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "$0")/common.sh"

[[ $# -eq 0 || ($# -eq 1 && $1 == --purge) ]] || refuse "'$*' is not known: nothing, or --purge"
[[ -e $state ]] || refuse "no cluster of port $FFPIPE_PORT is up; if FFPIPE_PORT was another with up.sh, give that"
rm -f "$state/token" # where some hosts cannot be stopped, submit.sh is not to take one of them for the head
mapfile -t hosts <"$state/hosts"
left=()
stopping=()
# Workers first: a worker whose head has gone complains for a minute.
for ((number = ${#hosts[@]} - 1; number >= 0; number--)); do
    there "${hosts[number]}" stop.sh "$@" </dev/null &
    stopping[number]=$!
done
for number in "${!hosts[@]}"; do
    wait "${stopping[number]}" || left+=("${hosts[number]}")
done
if ((${#left[@]} > 0)); then
    printf '%s\n' "${left[@]}" >"$state/hosts"
    fail "could not stop what runs on ${left[*]}: see to them, then cluster/down.sh again (or remove $state)"
fi
rm -r "$state"
