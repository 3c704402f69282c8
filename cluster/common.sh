# shellcheck shell=bash
# shellcheck disable=SC2034  # some are for the scripts that source this
# What up.sh, submit.sh and down.sh share. A cluster has a folder on this machine: its
# hosts by line, the head first, and its token, until down.sh begins to take it down.

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || {
    echo "${0##*/}: this is bash $BASH_VERSION: put 4.4 or newer first in PATH" >&2
    exit 2
}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=settings.sh
source "$here/settings.sh"

refuse() { # what is wrong and what would be right
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 2
}

show_help() { # the comment at the top of the script
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
}
[[ ${1-} != --help && ${1-} != -h ]] || show_help

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

[[ $FFPIPE_PORT =~ ^[1-9][0-9]{3,4}$ && $FFPIPE_PORT -ge 1024 && $FFPIPE_PORT -le 64000 ]] ||
    refuse "FFPIPE_PORT is '$FFPIPE_PORT': give a number from 1024 to 64000"
[[ $FFPIPE_FOLDER =~ ^[A-Za-z0-9._/-]+$ ]] ||
    refuse "FFPIPE_FOLDER is '$FFPIPE_FOLDER': give a path of letters, digits, and . _ / -"
read -r -a ssh <<<"$FFPIPE_SSH"
read -r -a pip_words <<<"$FFPIPE_PIP"
read -r -a ray_words <<<"$FFPIPE_RAY"
for word in $FFPIPE_PIP $FFPIPE_PYTHON $FFPIPE_BIN; do
    [[ $word =~ ^[A-Za-z0-9._/=:,@%+~-]+$ ]] ||
        refuse "FFPIPE_PIP, FFPIPE_PYTHON and FFPIPE_BIN go through a shell on the hosts: write $word without signs that it has a meaning for"
done
command -v "${ssh[0]-}" >/dev/null ||
    refuse "FFPIPE_SSH is '$FFPIPE_SSH': give a command that is there, such as ssh"

state=${XDG_STATE_HOME:-$HOME/.local/state}/ffpipe/cluster-$FFPIPE_PORT

# Words for other hosts are plain ones: ssh puts them through a shell, `docker exec` does not.
reach() { # HOST COMMAND...
    "${ssh[@]}" "$@"
}

folder_of() { # HOST: its own, since hosts may share their home folders
    printf '%s/%s' "$FFPIPE_FOLDER" "${1//@/-}"
}

there() { # HOST SCRIPT [WORD...]: run a script of cluster/host on a host, in its folder
    local host=$1 script=$2
    shift 2
    reach "$host" sh "$(folder_of "$host")/package/cluster/host/$script" "$(folder_of "$host")" "$@"
}
