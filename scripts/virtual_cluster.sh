#!/usr/bin/env bash
# A real Slurm of several nodes on this one machine, without Docker: what is rehearsed on it
# (sbatch, srun, gres, several hosts) is what the jobs meet on a cluster. Every machine of it
# is a network namespace with a host name and an /etc/hosts of its own; node<k>'s interface is
# named ib0. One more namespace, `controller`, holds the switch (a bridge), slurmctld and
# munged. This machine has only its own end of one cable, so neither its Slurm, its munge,
# its /etc/hosts nor its firewall is touched:
#
#   this machine .253 ──── controller .254 (bridge) ──── ib0 of node1 .1, node2 .2, …
#
# The nodes claim far more CPUs, memory and GPUs than there are: they are for seeing whether
# jobs run, not how fast. A GPU here is a null device; Slurm hands it out like a real one.
set -euo pipefail

usage() {
    cat <<EOT
usage: scripts/virtual_cluster.sh COMMAND [options]

  install                         get Slurm and munge (Debian, Ubuntu) when they are missing
  check                           say whether this machine can run the cluster
  up [--nodes 4] [--gpus 8]       start it: 1 to 32 nodes with 1 to 16 GPUs each
  status                          its nodes and its jobs
  env                             what a shell needs: source <(scripts/virtual_cluster.sh env)
  down                            cancel its jobs and remove every trace of it

VIRTUAL_CLUSTER_NAME (default: virtual) tells apart clusters that are up at the same time;
each lives in \$VIRTUAL_CLUSTER_BASE/virtual_slurm_NAME (base: /var/tmp). up, down and check
need root.
EOT
}

die() { printf 'error: %s\n' "$1" >&2; exit "${2:-1}"; }
say() { printf '%s\n' "$name: $1"; }

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin     # su without a dash leaves the daemons' folders out
name=${VIRTUAL_CLUSTER_NAME:-virtual}
# Nine characters, because vs-<name> names an interface and those end at fifteen.
[[ $name =~ ^[a-z][a-z0-9]{0,8}$ ]] ||
    die "VIRTUAL_CLUSTER_NAME='$name': use a small letter, then up to 8 small letters and digits" 2
state=${VIRTUAL_CLUSTER_BASE:-/var/tmp}/virtual_slurm_$name
link=vs-$name
# A word from the caller's own Slurm (a login node has one) must not lead us to that cluster.
export SLURM_CONF=$state/slurm.conf

namespaces() { ip netns list | awk -v prefix="vs-$name-" 'index($1, prefix) == 1 { print $1 }'; }

# Everything the cluster runs, munged and job processes included, is in one of its namespaces:
# so no pid is ever read from a file, where it may have become somebody else's.
pids() { local ns; for ns in $(namespaces); do ip netns pids "$ns" 2>/dev/null || true; done; }

answers() {
    # Without the cable a call to the controller would leave through the machine's own network.
    [[ -e $state/shape && -e /sys/class/net/$link ]] && timeout 20 scontrol ping &>/dev/null
}

take_lock() {
    # One lock for all names, as two of them must not choose the same subnet at the same time.
    exec 9>/run/virtual_slurm.lock
    flock --timeout 120 9 || die "$1: another up or down has been running for 2 minutes; try again later"
}

missing_tools() {
    local tool
    for tool in sbatch:slurm-wlm slurmctld:slurm-wlm slurmd:slurm-wlm munged:munge ip:iproute2; do
        command -v "${tool%:*}" >/dev/null || printf '%s ' "${tool#*:}"
    done
}

install() {
    local sudo=() policy=/usr/sbin/policy-rc.d
    [[ -n $(missing_tools) ]] || { say "nothing to install, $(sbatch --version) is here"; return; }
    command -v apt-get >/dev/null || die "install: Slurm and munge are missing and this is not Debian or \
Ubuntu (no apt-get); install sbatch, slurmctld, slurmd, munged and iproute2 by hand"
    if ((EUID != 0)); then
        command -v sudo >/dev/null || die "install: not root and there is no sudo; run as root: $0 install"
        sudo=(sudo)
    fi
    say "installing slurm-wlm, munge and iproute2 with ${sudo[*]:+sudo }apt-get"
    # The packages would start the machine's own munge and Slurm, which nobody asked for.
    if [[ ! -e $policy ]]; then
        # shellcheck disable=SC2064     # the values of now
        trap "${sudo[*]:+sudo }rm --force $policy" EXIT
        printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
        "${sudo[@]}" chmod 755 "$policy"
    fi
    "${sudo[@]}" apt-get update -qq && "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends slurm-wlm munge iproute2 >/dev/null ||
        die "install: apt-get failed, its message is above; run: apt-get install slurm-wlm munge iproute2"
}

try() {     # try STEP FIX COMMAND…
    local step=$1 fix=$2 message
    shift 2
    message=$("$@" 2>&1) || die "$step: ${message%%$'\n'*}; $fix"
}

check() {
    ((EUID == 0)) || die "$1: namespaces and device nodes need root; run: sudo VIRTUAL_CLUSTER_NAME=$name $0 $1"
    [[ -z $(missing_tools) ]] || die "$1: missing packages: $(missing_tools | xargs -n 1 | sort --unique | xargs); run: $0 install"
    (
        ns=vs-check-$BASHPID
        privileged="use a real or virtual machine, or a container started with --privileged"
        folder=$(mktemp --directory "${state%/*}/$ns.XXXX") || die "$1: state folder: ${state%/*} cannot be \
written; set VIRTUAL_CLUSTER_BASE to another folder"
        trap 'rm --recursive --force "$folder"; ip netns delete "$ns" 2>/dev/null' EXIT
        try "$1: network namespace" "$privileged" ip netns add "$ns"
        try "$1: bridge" "load the kernel module bridge" ip -netns "$ns" link add br0 type bridge
        try "$1: veth" "load the kernel module veth" ip -netns "$ns" link add a type veth peer name b
        try "$1: device node" "$privileged" mknod "$folder/gpu0" c 1 3
        try "$1: device node" "set VIRTUAL_CLUSTER_BASE to a folder not mounted with nodev" \
            dd if="$folder/gpu0" status=none
        touch "$folder/hosts"
        # shellcheck disable=SC2016     # for the inner shell
        try "$1: host name and mount namespace" "$privileged" nsenter --net="/run/netns/$ns" unshare \
            --uts --mount sh -c 'hostname node1 && mount --bind "$1" /etc/hosts' sh "$folder/hosts"
    ) || exit 1
}

free_subnet() {
    # Out of 198.18.0.0/15, set aside for network tests (RFC 2544) and so in nobody's routes;
    # the name gives the first to look at, so that it is mostly the same one.
    local hash i subnet
    hash=$(cksum <<<"$name" | cut --delimiter=' ' --fields=1)
    for ((i = hash % 512; i < hash % 512 + 512; i++)); do
        subnet=198.$((18 + i / 256 % 2)).$((i % 256))
        if ! { ip -4 route show to root "$subnet.0/24"; ip -4 route show to match "$subnet.0/24"; } |
            grep --quiet --invert-match '^default'; then
            printf '%s\n' "$subnet"
            return
        fi
    done
    die "up: every subnet of 198.18.0.0/15 is routed elsewhere; see: ip route"
}

make_network() {    # make_network SUBNET NODES
    local subnet=$1 k ns switch=vs-$name-controller
    # The bridge is not on the host, where Docker's firewall would drop what it forwards.
    ip netns add "$switch"
    ip -netns "$switch" link add br0 type bridge
    ip -netns "$switch" address add "$subnet.254/24" dev br0
    ip link add "$link" type veth peer name login netns "$switch"
    ip -netns "$switch" link set login master br0 up
    ip address add "$subnet.253/24" dev "$link"
    ip link set "$link" up
    for ((k = 1; k <= $2; k++)); do
        ns=vs-$name-node$k
        ip netns add "$ns"
        ip -netns "$ns" link add ib0 type veth peer name "node$k" netns "$switch"
        ip -netns "$switch" link set "node$k" master br0 up
        ip -netns "$ns" address add "$subnet.$k/24" dev ib0
        ip -netns "$ns" link set lo up
        ip -netns "$ns" link set ib0 up
    done
    ip -netns "$switch" link set lo up
    ip -netns "$switch" link set br0 up
}

write_files() {     # write_files SUBNET NODES GPUS
    local k version
    mkdir --mode=755 "$state/log" "$state/dev" "$state/munge"
    (umask 077 && head --bytes=1024 /dev/urandom >"$state/munge/key")
    for ((k = 0; k < $3; k++)); do mknod --mode=666 "$state/dev/nvidia$k" c 1 3; done
    # With Count= instead of File= the nodes go INVAL; AutoDetect would find a real GPU's driver.
    printf 'AutoDetect=off\nName=gpu File=%s/dev/nvidia[0-%d]\n' "$state" $(($3 - 1)) >"$state/gres.conf"
    # slurmd loads a cgroup plugin though nothing here uses cgroups, and the one for v2 fails
    # without systemd. 24.05 can do without; before, v1 is the one that touches nothing unasked.
    version=$(slurmd -V)
    version=${version##* }
    if [[ $(printf '%s\n' 24.05 "$version" | sort --version-sort | head --lines=1) == 24.05 ]]; then
        echo 'CgroupPlugin=disabled' >"$state/cgroup.conf"
    else
        echo 'CgroupPlugin=cgroup/v1' >"$state/cgroup.conf"
    fi
    {
        echo "127.0.0.1 localhost"
        echo "$1.253 login"
        echo "$1.254 controller"
        for ((k = 1; k <= $2; k++)); do echo "$1.$k node$k"; done
    } >"$state/hosts"
    cat >"$state/slurm.conf" <<EOT
ClusterName=$name
SlurmctldHost=controller($1.254)
SlurmUser=root
AuthInfo=socket=$state/munge/socket
SlurmctldPidFile=$state/slurmctld.pid
SlurmctldLogFile=$state/log/slurmctld.log
StateSaveLocation=$state/slurmctld
SlurmdPidFile=$state/slurmd_%n.pid
SlurmdLogFile=$state/log/slurmd_%n.log
SlurmdSpoolDir=$state/spool_%n
SlurmdParameters=config_overrides       # more CPUs than the machine has
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ProctrackType=proctrack/linuxproc       # no cgroups needed
TaskPlugin=task/none                    # no binding to CPUs that are not there
GresTypes=gpu
MpiDefault=none
ReturnToService=2
KillWait=10
SlurmdTimeout=60
MessageTimeout=30                       # a busy machine answers late
EnforcePartLimits=ALL                   # refuse a too long job at once, as most sites do
SchedulerParameters=batch_sched_delay=0,sched_interval=10,bf_interval=10
JobCompType=jobcomp/filetxt
JobCompLoc=$state/log/jobcomp.log
MinJobAge=86400                         # there is no accounting: keep ended jobs in scontrol's sight
EOT
    for ((k = 1; k <= $2; k++)); do
        echo "NodeName=node$k NodeAddr=$1.$k CPUs=64 RealMemory=262144 Gres=gpu:$3"
    done >>"$state/slurm.conf"
    # Without a default a job would take all the node's memory and nothing else could run there.
    echo "PartitionName=main Nodes=ALL Default=YES DefaultTime=30 MaxTime=04:00:00 DefMemPerCPU=1024" \
        >>"$state/slurm.conf"
}

on_host() {     # on_host HOST COMMAND…: start a daemon as if on that host
    local host=$1
    shift
    # Not `ip netns exec`: it mounts another /sys, where slurmd finds no cgroups. A clean
    # environment, so that nothing of the caller's ends up in a daemon; without descriptor 9,
    # or the daemon would hold the lock.
    # shellcheck disable=SC2016     # for the inner shell
    nsenter --net="/run/netns/vs-$name-$host" unshare --uts --mount env --ignore-environment \
        PATH="$PATH" SLURM_CONF="$SLURM_CONF" sh -c \
        'mount --bind "$1" /etc/hosts && hostname "$2" && shift 2 && exec "$@"' sh "$state/hosts" "$host" "$@" \
        </dev/null >>"$state/log/start.log" 2>&1 9>&-
}

running_jobs() { timeout 20 squeue --noheader --states=running,completing,suspended --format=%i 2>/dev/null; }

teardown() {
    local i ns
    trap '' INT TERM                # a second Ctrl-C would leave half of it behind
    if answers; then                # let jobs run their traps, for as long as KillWait gives them
        timeout 20 scancel --partition=main &>/dev/null || true
        for ((i = 0; i < 60; i++)); do [[ -n $(running_jobs) ]] || break; sleep 0.2; done
    fi
    for ((i = 0; i < 100; i++)); do # TERM for 2 s, so that the daemons finish their files, then KILL
        mapfile -t left < <(pids)
        ((${#left[@]})) || break
        if ((i < 20)); then kill -TERM "${left[@]}" 2>/dev/null || true
        else kill -KILL "${left[@]}" 2>/dev/null || true; fi
        sleep 0.1
    done
    ((${#left[@]} == 0)) || die "down: processes ${left[*]} cannot be ended; try again later"
    # The cable first: the kernel takes namespaces apart later, and a new `up` may be quicker.
    if [[ -e /sys/class/net/$link ]]; then ip link delete "$link"; fi
    for ns in $(namespaces); do ip netns delete "$ns"; done
    rm --recursive --force --one-file-system "$state"
}

wait_until() {      # wait_until SECONDS WHAT COMMAND…
    local what=$2 deadline=$((SECONDS + $1))
    shift 2
    until "$@"; do
        if ((SECONDS >= deadline)); then
            tail --lines=5 "$state"/log/*.log >&2
            die "up: $what within the time allowed; the ends of the logs are above"
        fi
        sleep 0.1
    done
}

all_idle() { [[ $(sinfo --noheader --Node --format=%t | grep --count --line-regexp idle) == "$1" ]]; }

up() {
    local nodes=4 gpus=8 subnet k began=$SECONDS
    while (($#)); do
        case $1 in
            --nodes | --gpus)
                [[ ${2-} =~ ^[0-9]{1,2}$ ]] || die "$1 takes a whole number, not '${2-}'" 2
                printf -v "${1#--}" %d "$((10#$2))"
                shift 2 ;;
            *) die "unknown option of up: $1; valid: --nodes, --gpus" 2 ;;
        esac
    done
    ((nodes >= 1 && nodes <= 32)) || die "--nodes takes 1 to 32, not $nodes" 2
    ((gpus >= 1 && gpus <= 16)) || die "--gpus takes 1 to 16, not $gpus" 2
    check up
    take_lock up
    if answers; then
        [[ $(<"$state/shape") == "$nodes $gpus" ]] || die "up: already up as $(shape); first run: $0 down"
        say "already up: $(shape)"
        return
    fi
    trap '((complete)) || { echo "error: up did not finish; removing what it made" >&2; teardown; }' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    teardown        # what a killed `up`, or a restart of the machine, may have left
    ...
}
