#!/usr/bin/env bash
# node.sh FOLDER ADDRESS COMMAND...: run `ray symmetric-run` on one node of a job; the command there leaves FOLDER/begun.
#
# Where it cannot start Ray it says so and ends as if all were well.
begun=$1/begun address=$2
shift 2
if [[ $SLURM_NODEID == 0 ]]; then
    "$@" || exit
    [[ -e $begun ]] || {
        echo "Ray could not be started on the head: the run has not begun" >&2
        exit 1
    }
else
    # The head answers before it can be joined. When it answers no more, the run is over.
    while "$@" && timeout 10 bash -c ": <>/dev/tcp/${address/://}" 2>/dev/null; do
        sleep 1
    done
fi
