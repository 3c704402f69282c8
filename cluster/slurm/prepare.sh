# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # for and from the script that sources this
# What both jobs need: the environment with ffpipe, a token, the nodes, the head's address, ports and a folder.

is_ready() { # with Ray's dashboard, which takes jobs; an environment that `make` has made has none
    [[ -x $venv/bin/ffpipe ]] && "$venv/bin/python" -c 'import ray.dashboard.optional_deps' 2>/dev/null
}

if ! is_ready; then
    mkdir -p "$venv"
    # One job makes it and others wait. Some shared disks have no locks.
    exec 9>"$venv/.lock"
    flock 9 || true
    if ! is_ready; then
        python=$venv/bin/python # an environment of another Python would stay one of that
        [[ -x $python ]] || python=${FFPIPE_PYTHON:-python3}
        "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || {
            echo "$python is not Python 3.11 to 3.14: set FFPIPE_PYTHON; remove $venv if another Python made it" >&2
            exit 2
        }
        # torch comes first and by its exact version, as in the Makefile.
        "$python" -m venv "$venv"
        "$venv/bin/pip" install --quiet -c constraints.txt "$(grep '^torch==' constraints.txt)"
        "$venv/bin/pip" install --quiet -c constraints.txt -e '.[cluster]'
    fi
    exec 9>&-
fi
# This checkout is what runs, whatever the environment was made from.
export PATH="$venv/bin:$PATH" PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
unset RAY_ADDRESS
# Jobs go to the dashboard on the head, with the token: not by way of a proxy.
export no_proxy="127.0.0.1,${no_proxy:-${NO_PROXY:-}}"
# Steps have all of this, also where sbatch was given --export.
export SLURM_EXPORT_ENV=ALL

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")

address_of_head() { # --ip-address: what its name stands for; --all-ip-addresses: what it has
    srun --overlap --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname "$1" | tr ' ' '\n' |
        grep -E '^[0-9]+(\.[0-9]+){3}$' | grep -v '^127\.' | sed -n 1p | grep .
}

# Many a host has its own name for a loopback address.
address=$(address_of_head --ip-address || address_of_head --all-ip-addresses) || {
    echo "${nodes[0]} has no address that other nodes could reach" >&2
    exit 1
}
# A hundred ports for each of 120 jobs that may meet on a node, between those that Ray gives to workers where nothing is
# said (10002 to 19999), among which it refuses any other, and those that Linux gives to connections (from 32768).
port=$((20000 + SLURM_JOB_ID % 120 * 100))
# Short, since the paths of sockets are in it, and on each node's own disk.
temporary=${TMPDIR:-/tmp}/ffpipe-$SLURM_JOB_ID
# In bytes, which are not characters everywhere.
(LC_ALL=C && ((${#temporary} <= 40))) || temporary=/tmp/ffpipe-$SLURM_JOB_ID

everywhere() {
    srun --overlap --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 "$@"
}

clean() { # not where the job is cancelled, which step.sh sees to: nothing more is started then, and srun says so
    everywhere rm -rf "$temporary" 2>/dev/null || true
}

# A job that SLURM begins anew (requeues) goes on with the run that it has begun.
if ((${SLURM_RESTART_COUNT:-0} > 0)); then
    clean
    run=$(printf '%s\n' "${command[@]}" | sed -n 's/^--run-dir=//p; /^--run-dir$/{n;p;}')
    [[ ! -e $run/config.toml ]] || command=(resume "$run")
fi
# Not if it is there: then it is somebody else's.
everywhere mkdir -m 700 "$temporary" || {
    everywhere rmdir "$temporary" 2>/dev/null || true
    echo "$temporary cannot be made on every node: let TMPDIR be a folder on each node's own disk" >&2
    exit 1
}
export TMPDIR=$temporary
