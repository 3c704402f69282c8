# shellcheck shell=sh
# shellcheck disable=SC2034  # temporary is for the scripts that source this
# environment.sh: what every program of the cluster is told, on this host. Sourced with `folder` and `bin` set; leaves
# them as whole paths, and `temporary` as where Ray's files are.

folder=$(cd "$folder" && pwd)
case $bin in
    venv) bin=$folder/venv/bin ;;
esac
temporary=$(cat "$folder/temporary" 2>/dev/null || true)
# Others' temporary files go there too, and with it.
[ -z "$temporary" ] || export TMPDIR="$temporary"
unset RAY_ADDRESS RAY_AUTH_TOKEN
export PATH="$bin:$PATH" PYTHONPATH="$folder/package"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$folder/token" RAY_USAGE_STATS_ENABLED=0
# Jobs go to the dashboard on this host, with the token: not by way of a proxy.
export no_proxy="127.0.0.1,${no_proxy:-${NO_PROXY:-}}"
# Stages are what these hosts are for: at Ray's own priority, not below it.
export RAY_worker_niceness=0
