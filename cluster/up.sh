#!/usr/bin/env bash
# Start a Ray cluster for ffpipe on hosts that ssh (or what settings.sh names) reaches.
#
#     cluster/up.sh HEAD[=ADDRESS] WORKER[=ADDRESS]...
#
# ADDRESS is under what the others reach a host; without it, the head's is looked up by its name, a worker's found by
# Ray. Puts this checkout on every host and installs it there with the versions of constraints.txt.
# What happens on a host is in cluster/host; cluster/down.sh takes everything down again.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "$0")/common.sh"

SECONDS_TO_JOIN=300

(($# > 0)) || refuse "give the hosts: cluster/up.sh HEAD WORKER..."
hosts=()
addresses=()
for given in "$@"; do
    [[ $given =~ ^[A-Za-z0-9._@-]+(=[A-Za-z0-9.-]+)?$ && $given != -* ]] ||
        refuse "'$given' is not a host: give a name that '$FFPIPE_SSH' knows, and =ADDRESS (IPv4 or a name, without a port) where it is needed"
    host=${given%%=*}
    [[ " ${hosts[*]-} " != *" $host "* ]] || refuse "$host is given twice"
    hosts+=("$host")
    addresses+=("$([[ $given == *=* ]] && printf '%s' "${given#*=}" || printf '')")
done
[[ ! -e $state ]] || refuse "a cluster of port $FFPIPE_PORT is up on $(paste -sd ' ' "$state/hosts"): cluster/down.sh first"

for host in "${hosts[@]}"; do
    if reach "$host" test -e "$(folder_of "$host")/process" </dev/null; then
        refuse "Ray runs on $host from $(folder_of "$host") already, started from elsewhere or with another FFPIPE_PORT:" \
            "take that down, or give another FFPIPE_FOLDER (if $host was restarted since, remove that file 'process')"
    fi
done

head=${hosts[0]}
address=${addresses[0]:-$(reach "$head" sh -s "${head#*@}" <"$here/host/address.sh")} ||
    refuse "what is the address of $head? If '$FFPIPE_SSH $head' reaches it, give it: cluster/up.sh $head=ADDRESS ..."

umask 077
mkdir -p "$state"
: >"$state/hosts"
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$state/token"

give_up() { # whatever was started is stopped again
    trap - EXIT
    # Those that still put something on a host are waited for, since the next up.sh would write where they do; what ssh
    # has begun there would go on without it.
    [[ -z $(jobs -r) ]] || echo "${0##*/}: waiting for what is being installed" >&2
    wait || true
    "$here/down.sh" >&2 || true
    fail "$1"
}
trap 'give_up "broken off"' EXIT

put() { # HOST: the package, and what it needs
    local folder
    folder=$(folder_of "$1")
    reach "$1" rm -rf "$folder/package" </dev/null &&
        reach "$1" mkdir -p "$folder/package" </dev/null &&
        tar -C "$here/.." -czf - --exclude=__pycache__ \
            pyproject.toml constraints.txt README.md LICENSE ffpipe cluster |
        reach "$1" tar -C "$folder/package" --no-same-owner -xzf - &&
        { [[ -n $FFPIPE_BIN ]] || there "$1" install.sh "$FFPIPE_PYTHON" "${pip_words[@]}" </dev/null; }
}

putting=()
for host in "${hosts[@]}"; do
    put "$host" &
    putting+=($!)
done
# For all of them, whatever becomes of one: none is to be written to any more when this has ended.
without=()
for number in "${!hosts[@]}"; do
    wait "${putting[number]}" || without+=("${hosts[number]}")
done
((${#without[@]} == 0)) || give_up "ffpipe could not be put on ${without[*]}"

start() { # HOST OWN_ADDRESS [HEAD_ADDRESS]
    local status=0
    echo "$1" >>"$state/hosts"
    # By standard input, since words of any kind come unharmed through it.
    { cat "$state/token" && printf '\n' && printf '%s\n' "${ray_words[@]}"; } |
        there "$1" start.sh "${FFPIPE_BIN:-venv}" "$FFPIPE_PORT" "${2:--}" "${3:--}" || status=$?
    if ((status == 3)); then # what runs there is another's, and not ours to stop
        grep -vxF -- "$1" "$state/hosts" >"$state/others" || true
        mv "$state/others" "$state/hosts"
    fi
    ((status == 0)) || give_up "Ray could not be started on $1"
}

start "$head" "$address"
for number in "${!hosts[@]}"; do
    ((number == 0)) || start "${hosts[number]}" "${addresses[number]}" "$address:$FFPIPE_PORT"
done
there "$head" wait.sh "${FFPIPE_BIN:-venv}" "$address:$FFPIPE_PORT" "${#hosts[@]}" "$SECONDS_TO_JOIN" </dev/null ||
    give_up "not every host has joined"
trap - EXIT
echo "train:      cluster/submit.sh train digits --stages ${#hosts[@]}"
echo "take down:  cluster/down.sh"
