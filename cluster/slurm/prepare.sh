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
        # torch comes first and by its exact version, as in the Makefile.
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet -c constraints.txt "$(grep '^torch==' constraints.txt)"
        "$venv/bin/pip" install --quiet -c constraints.txt '.[cluster]'
    fi
    exec 9>&-
fi
export PATH="$venv/bin:$PATH"

RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
unset RAY_ADDRESS

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
# A hundred ports for each of four hundred jobs that may meet on a node.
port=$((20000 + SLURM_JOB_ID % 400 * 100))
# Short, since the paths of sockets are in it, and on each node's own disk.
temporary=${TMPDIR:-/tmp}/ffpipe-$SLURM_JOB_ID
# In bytes, which are not characters everywhere.
(LC_ALL=C && ((${#temporary} <= 40))) || temporary=/tmp/ffpipe-$SLURM_JOB_ID

everywhere() {
    srun --overlap --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 "$@"
}

clean() { # not where the job is cancelled, which step.sh sees to: nothing more is started then, and srun says so
    everywhere rm -rf "$temporary" 2>/dev/null || true
}

# Not if it is there: then it is somebody else's.
everywhere mkdir -m 700 "$temporary"
export TMPDIR=$temporary
