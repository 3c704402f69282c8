#!/bin/sh
# start.sh FOLDER BIN PORT OWN_ADDRESS HEAD_ADDRESS
#
# Start Ray on this host, as the head where HEAD_ADDRESS is "-". The token comes by standard input, and in lines after
# it more options of `ray start`. `ray start --block` is the parent of all of Ray here, and they end with it; stop.sh
# ends it by its id. Exit status 3: another cluster has this folder.
set -eu
folder=$1 bin=$2 port=$3 own=$4 head=$5
umask 077
[ ! -e "$folder/process" ] || {
    echo "$(hostname): Ray was started from $folder before: stop it with stop.sh" >&2
    exit 3
}
IFS= read -r token
printf '%s' "$token" >"$folder/token"
set --
while IFS= read -r word; do
    [ -z "$word" ] || set -- "$@" "$word"
done
# Short, since the paths of sockets are in it (40 bytes at most), and never on a disk that hosts share.
inside=${TMPDIR:-/tmp}
[ "$(printf %s "$inside/ffpipe-XXXXXXXX" | wc -c)" -le 40 ] || inside=/tmp
mktemp -d "$inside/ffpipe-XXXXXXXX" >"$folder/temporary"
# shellcheck source=environment.sh
. "$(dirname "$0")/environment.sh"
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 DASHBOARD_METRIC_PORT=$((port + 8))

set -- "$@" --temp-dir="$temporary" --disable-usage-stats \
    --node-manager-port=$((port + 1)) --object-manager-port=$((port + 2)) \
    --runtime-env-agent-port=$((port + 3)) --dashboard-agent-listen-port=$((port + 4)) \
    --dashboard-agent-grpc-port=$((port + 5)) --metrics-export-port=$((port + 6)) \
    --min-worker-port=$((port + 100)) --max-worker-port=$((port + 1099))
[ "$own" = - ] || set -- "$@" --node-ip-address="$own"
if [ "$head" = - ]; then
    # No monitor: there is nothing to scale, and it would listen on every address.
    set -- "$@" --head --port="$port" --no-monitor --ray-client-server-port=$((port + 7)) \
        --include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port=$((port + 9))
else
    set -- "$@" --address="$head"
fi
cd "$folder"
: >ray.log # where the last cluster's Ray has started
setsid nohup ray start --block "$@" >"$folder/ray.log" 2>&1 </dev/null &
echo $! >"$folder/process"

seconds=120
until grep -q 'Ray runtime started' "$folder/ray.log"; do
    seconds=$((seconds - 1))
    if [ "$seconds" -eq 0 ] || ! kill -0 "$(cat "$folder/process")" 2>/dev/null; then
        tail -n 20 "$folder/ray.log" >&2
        exit 1
    fi
    sleep 1
done
