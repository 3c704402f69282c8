#!/bin/sh
# step.sh FOLDER COMMAND...: run a command as a step of a job; when it ends, end all that it has started on this node,
# and remove FOLDER there.
#
# Also where the job is cancelled: then SLURM signals what runs and starts nothing more that could clean up.
folder=$1
shift

look() { # for ids of processes of this step but this one
    found=$(grep -alsz "^SLURM_JOB_ID=$SLURM_JOB_ID\$" /proc/[0-9]*/environ |
        xargs -r grep -alsz "^SLURM_STEP_ID=$SLURM_STEP_ID\$" | sed 's|/proc/\([0-9]*\)/.*|\1|')
    ids=
    # Those that looked have ended by now.
    for id in $found; do
        [ "$id" = $$ ] || ! kill -0 "$id" 2>/dev/null || ids="$ids $id"
    done
}

end() { # SIGNAL SECONDS
    seconds=$2
    while look && [ -n "$ids" ] && [ "$seconds" -gt 0 ]; do
        # shellcheck disable=SC2086  # ids are words
        kill -s "$1" $ids 2>/dev/null || true
        seconds=$((seconds - 1))
        sleep 1
    done
}

cancelled=
trap 'cancelled=1; kill "$command" 2>/dev/null || true' TERM
"$@" &
command=$!
wait "$command"
status=$?
# A signal ends `wait`, and the command has yet to end.
[ -z "$cancelled" ] || { wait "$command"; status=$?; }
end TERM 10
end KILL 5
rm -rf "$folder"
exit "$status"
