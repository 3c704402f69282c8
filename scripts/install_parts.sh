#!/usr/bin/env bash
# Install the parts that test_real_slurm.py, test_ssh.py and test_s3.py of tests/cluster meet, from this machine's
# distribution (Debian or Ubuntu, as root). `make test-long` installs nothing of it: it skips tests whose parts are absent.
#
#     scripts/install_parts.sh              all that is not there
#     scripts/install_parts.sh --dry-run    only say what that is
#
# Starts nothing, now or at the next boot: tests start what they need, in namespaces and on loopback, and end it.
set -euo pipefail

refuse() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 2
}

SLURM=(slurmctld slurmd slurm-client munge)
SSH=(openssh-server openssh-client rsync)
S3=(ceph-mon ceph-osd radosgw) # an object store of three daemons that answers as S3
NAMESPACES=(iproute2 util-linux procps)

[[ $# -eq 0 || ($# -eq 1 && $1 == --dry-run) ]] || refuse "'$*' is not known: nothing, or --dry-run"
command -v apt-get dpkg-query >/dev/null ||
    refuse "there is no apt-get here: install ${SLURM[*]} ${SSH[*]} ${S3[*]}, or what your system calls them, by its own means"

is_there() { # PACKAGE
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

missing=()
for package in "${SLURM[@]}" "${SSH[@]}" "${S3[@]}" "${NAMESPACES[@]}"; do
    is_there "$package" || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
    echo "all is there: ${SLURM[*]} ${SSH[*]} ${S3[*]} ${NAMESPACES[*]}"
    exit 0
fi
echo "to install, from the distribution: ${missing[*]}"
[[ $# -eq 0 ]] || exit 0
((EUID == 0)) || refuse "that takes root: sudo $0"

# Programs of packages ask this file whether they may start; 101 is "no".
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    echo "to keep them from starting: $policy, until they are installed"
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
elif "$policy" ssh start >/dev/null 2>&1; then
    refuse "$policy lets what is installed start: let it exit with 101 meanwhile"
fi

enabled() { # what starts at boot
    [[ ! -d /run/systemd/system ]] || systemctl list-unit-files --state=enabled --no-legend | cut -d ' ' -f 1 | sort
}
before=$(enabled)
export DEBIAN_FRONTEND=noninteractive
echo "to do: apt-get update"
apt-get update --quiet=2
echo "to do: apt-get install --no-install-recommends ${missing[*]}"
apt-get install --yes --quiet=2 --no-install-recommends "${missing[@]}" >/dev/null </dev/null

if [[ -d /run/systemd/system ]]; then
    # Those that other packages bring along too, whatever a distribution calls them.
    mapfile -t services < <(comm -13 <(printf '%s\n' "$before") <(enabled))
    echo "to do, so that the next boot does not start them: systemctl disable ${services[*]}"
    ((${#services[@]} == 0)) || systemctl disable --quiet "${services[@]}"
fi
echo "installed: ${missing[*]}"
