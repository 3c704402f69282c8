#!/bin/sh
# install.sh FOLDER PYTHON [PIP_OPTION...]: ffpipe from FOLDER/package into FOLDER/venv, unless just that is there.
set -eu
folder=$1 python=$2
shift 2
cd "$folder"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$(hostname): $python is older than 3.11, or none: set FFPIPE_PYTHON" >&2
    exit 1
}
state=$(find package -type f ! -name '*.pyc' ! -path '*/build/*' ! -path '*.egg-info/*' -exec cksum {} + | sort -k 3 | cksum; echo "$*")
[ "$(cat venv/.ready 2>/dev/null)" != "$state" ] || exit 0
"$python" -m venv venv
# torch comes first and by its exact version, as in the Makefile.
torch=$(grep '^torch==' package/constraints.txt)
venv/bin/python -m pip install --quiet "$@" -c package/constraints.txt "$torch"
venv/bin/python -m pip install --quiet "$@" -c package/constraints.txt './package[cluster]'
echo "$state" >venv/.ready
