#!/bin/sh
# submit.sh FOLDER BIN PORT: run ffpipe with the words on standard input (each ended by a zero byte) as a job.
set -eu
folder=$1 bin=$2 port=$3
# shellcheck source=environment.sh
. "$(dirname "$0")/environment.sh"
# shellcheck disable=SC2016  # the job's shell is to see $@
xargs -0 ray job submit --address="http://127.0.0.1:$((port + 9))" -- \
    sh -c 'cd "$0" && exec python -m ffpipe "$@"' "$folder" || exit 1
