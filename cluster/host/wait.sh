#!/bin/sh
# wait.sh FOLDER BIN ADDRESS COUNT SECONDS: until so many hosts have joined, then say what there is.
set -eu
folder=$1 bin=$2
# shellcheck source=environment.sh
. "$(dirname "$0")/environment.sh"
exec python "$(dirname "$0")/wait.py" "$3" "$4" "$5"
