#!/bin/sh
# install.sh FOLDER PYTHON [PIP_OPTION...]: ffpipe from FOLDER/package into FOLDER/venv, unless just that is there.
set -eu
folder=$1 python=$2
shift 2
cd "$folder"
version=$("$python" -c 'import sys; print(sys.executable, *sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))') || {
    echo "$(hostname): $python is older than 3.11, or none: set FFPIPE_PYTHON" >&2
    exit 1
}
# One at a time: another up.sh, which was ended, may have left one at work.
exec 9>install.lock
flock 9
state=$(find package -type f ! -name '*.pyc' ! -path '*/build/*' ! -path '*.egg-info/*' -exec cksum {} + | sort -k 3 | cksum; echo "$version $*")
[ "$(cat venv/.ready 2>/dev/null)" != "$state" ] || exit 0
rm -f venv/.ready
# An environment of another Python would stay one of that.
[ "$(cat venv/.python 2>/dev/null)" = "$version" ] || rm -rf venv
"$python" -m venv venv
echo "$version" >venv/.python
# torch comes first and by its exact version, as in the Makefile.
torch=$(grep '^torch==' package/constraints.txt)
venv/bin/python -m pip install --quiet "$@" -c package/constraints.txt "$torch"
venv/bin/python -m pip install --quiet "$@" -c package/constraints.txt './package[cluster]'
echo "$state" >venv/.ready
