#!/bin/sh
# stop.sh FOLDER [--purge]: end every process of the cluster on this host, and remove its token and Ray's files.
#
# Theirs are those that have our token's path in their environment; `ray stop` would end everybody's Ray. Its agents
# write their titles over their environment: they are known by these, and by their open files in Ray's folder.
set -eu
folder=$(cd "$1" 2>/dev/null && pwd) || exit 0 # nothing was ever put here
temporary=$(cat "$folder/temporary" 2>/dev/null || true)
real=$(cd "$temporary" 2>/dev/null && pwd -P) || real=$temporary # /proc has paths without links

ours() { # ids of processes
    {
        grep -alsz "^RAY_AUTH_TOKEN_PATH=$folder/token\$" /proc/[0-9]*/environ || true
        [ -z "$temporary" ] || grep -als '^ray::' /proc/[0-9]*/cmdline | while read -r titled; do
            find "${titled%/*}/fd" -lname "$real/*" -print -quit 2>/dev/null || true
        done
    } | sed 's|/proc/\([0-9]*\)/.*|\1|'
}

end() { # SIGNAL SECONDS
    seconds=$2
    while left=$(ours) && [ -n "$left" ] && [ "$seconds" -gt 0 ]; do
        # shellcheck disable=SC2086  # ids are words
        kill -s "$1" $left 2>/dev/null || true
        seconds=$((seconds - 1))
        sleep 1
    done
}

# The parent ends its own in order.
parent=$(cat "$folder/process" 2>/dev/null || true)
if [ -n "$parent" ] && ours | grep -qx "$parent"; then
    kill "$parent"
    seconds=20
    while [ "$seconds" -gt 0 ] && ours | grep -qx "$parent"; do
        seconds=$((seconds - 1))
        sleep 1
    done
fi
end TERM 5
end KILL 10
[ -z "$(ours)" ] || exit 1
case $temporary in
    */ffpipe-*) rm -rf "$temporary" ;;
esac
rm -f "$folder/token" "$folder/temporary" "$folder/process"
[ "${2:-}" != --purge ] || rm -rf "$folder"
