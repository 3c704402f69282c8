# shellcheck shell=bash
# What up.sh, submit.sh and down.sh are told. Each of these can be given in the environment instead.

# >>> edit here
: "${FFPIPE_SSH:=ssh}"                 # what reaches a host: $FFPIPE_SSH HOST COMMAND... (containers: docker exec -i)
: "${FFPIPE_FOLDER:=.ffpipe-cluster}"  # on every host, from the login folder; no spaces
: "${FFPIPE_PYTHON:=python3}"          # on every host, 3.11 to 3.14: makes the environment that ffpipe is installed in
: "${FFPIPE_BIN:=}"                    # or the folder of an environment's programs that has ffpipe on every host already
: "${FFPIPE_PIP:=}"                    # more words for pip, such as --extra-index-url and where torch for your GPUs is
: "${FFPIPE_PORT:=6379}"               # the first of the ports that README.md names
: "${FFPIPE_RAY:=}"                    # more words for `ray start` on every host, such as --num-cpus=8
# <<< edit here
