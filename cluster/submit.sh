#!/usr/bin/env bash
# Run an ffpipe command as a job on the head host of a cluster that up.sh has started, and show what it says.
#
#     cluster/submit.sh train mnist --stages 3
#     cluster/submit.sh train digits-cnn --model nets.py:blocks
#
# A model's file on this machine is sent along (to models/ there). Other paths are the head host's; runs go to runs/ in
# the folder of settings.sh there. The job goes on without this script.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "$0")/common.sh"

(($# > 0)) || refuse "give what ffpipe is to do: cluster/submit.sh train digits"
[[ -e $state/token ]] || refuse "no cluster of port $FFPIPE_PORT is up: cluster/up.sh HEAD WORKER... first"
head=$(head -n 1 "$state/hosts")

words=() before=
for word in "$@"; do
    file=${word#--model=}
    file=${file%:*}
    if [[ ($before == --model || $word == --model=*) && $file == *.py && -f $file ]]; then
        name=${file##*/}
        [[ $name =~ ^[A-Za-z0-9._-]+$ ]] || refuse "the model's file $file: give it a name of letters, digits, and . _ -"
        there "$head" receive.sh "$name" <"$file"
        word=${word/"$file"/models/$name}
    fi
    words+=("$word")
    before=$word
done
# By standard input, since words of any kind come unharmed through it.
printf '%s\0' "${words[@]}" | there "$head" submit.sh "${FFPIPE_BIN:-venv}" "$FFPIPE_PORT"
