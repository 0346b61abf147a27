#!/usr/bin/env bash
# A real Slurm of several nodes on this one machine, without Docker, for rehearsing jobs.
# usage: scripts/virtual_cluster.sh COMMAND
#   install                     install Slurm and munge when they are missing (Debian, Ubuntu)
#   check                       can this machine run the cluster, and if not, why
#   up [--nodes 4] [--gpus 8] [--link RATE]
#                               start it: 1 to 32 nodes, 1 to 16 GPUs on each; a RATE such as
#                               100mbit is what each node can send (kbit, mbit, gbit per second).
#                               Latency cannot be emulated: that takes netem, which few kernels have
#   status                      its nodes and its jobs
#   env                         for the shell that submits: source <(scripts/virtual_cluster.sh env)
#   down                        cancel its jobs, remove every trace of it
# check, up and down need root. VIRTUAL_CLUSTER_NAME (default: virtual) tells clusters apart that
# are up together; one has all its files in VIRTUAL_CLUSTER_BASE (/var/tmp)/virtual_slurm_NAME.
#
# Each of its hosts is a network namespace with a host name and an /etc/hosts of its own; the
# Slurm, munge, /etc/hosts and firewall of this machine are left alone.
#   this machine .253 ──── controller .254: a bridge, munged, slurmctld
#                               └── ib0 of node1 .1, node2 .2, …: slurmd and the jobs
# The nodes claim more CPUs, memory and GPUs than there are: what is rehearsed here is whether
# a job runs, not how fast. A GPU is a null device, which Slurm hands out like a real one.
set -euo pipefail
usage() { sed --quiet '2,/^set /s/^# \{0,1\}//p' "$0"; }
die() { echo "error: $1" >&2; exit "${2:-1}"; }
say() { echo "$name: $1"; }
fail() { tail --lines=5 "$state"/log/*.log >&2; die "up: $1; the ends of the logs are above"; }
umask 022                                       # jobs of other users read the files, too
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin      # a plain `su` leaves the daemons' folders out
name=${VIRTUAL_CLUSTER_NAME:-virtual}
[[ $name =~ ^[a-z][a-z0-9]{0,8}$ ]] ||          # vs-<name> names an interface: 15 characters
  die "VIRTUAL_CLUSTER_NAME=$name: use a small letter, then up to 8 small letters or digits" 2
state=${VIRTUAL_CLUSTER_BASE:-/var/tmp}/virtual_slurm_$name
[[ ${state%/*} =~ ^/[A-Za-z0-9._/-]{1,39}$ ]] ||      # slurmd's sockets are in it: 107 characters
  die "VIRTUAL_CLUSTER_BASE=${state%/*}: use an absolute path of up to 40 characters, no spaces" 2
cable=vs-$name                                  # this machine's end of it
export SLURM_CONF=$state/slurm.conf             # never the Slurm that this machine belongs to

namespaces() { ip netns list 2>/dev/null | grep --only-matching "^vs-$name-[a-z0-9]*" || true; }
# All processes, jobs' too, are found by their namespace: a pid in a file may be another's by now.
pids() { local ns; for ns in $(namespaces); do ip netns pids "$ns" 2>/dev/null || true; done; }
is_up() {   # the cable first: without it the call would leave through the machine's own network
  [[ -e $state/shape && -e /sys/class/net/$cable ]] && timeout 20 scontrol ping &>/dev/null
}

lock() {
  ((EUID == 0)) || die "$1: needs root; run it with sudo: sudo VIRTUAL_CLUSTER_NAME=$name $0 $1"
  exec 9>/run/virtual_slurm.lock    # one for all names, or two of them could take one subnet
  flock --timeout 120 9 || die "$1: another up or down is still busy after 2 minutes; try later"
}
missing() { for tool; do hash "$tool" 2>/dev/null || echo -n " $tool"; done; }
missing_tools() { missing sbatch slurmctld slurmd munged ip; }

install() (     # a subshell, whose end takes the policy file away
  sudo=() policy=/usr/sbin/policy-rc.d
  [[ -n $(missing_tools) ]] || { say "nothing to install, $(slurmd -V) is here"; exit; }
  ((EUID == 0)) || sudo=(sudo)
  [[ -z $(missing apt-get "${sudo[@]}") ]] ||
    die "install: no$(missing apt-get "${sudo[@]}") here; as root, install by hand:$(missing_tools)"
  say "installing slurm-wlm, munge and iproute2 with ${sudo[*]:+sudo }apt-get"
  "${sudo[@]}" true || die "install: sudo refuses; run as root: $0 install"
  if [[ ! -e $policy ]]; then     # else the packages start a munge and a Slurm for the machine
    trap '"${sudo[@]}" rm --force "$policy"' EXIT
    "${sudo[@]}" /usr/bin/install --mode=755 /dev/stdin "$policy" <<<$'#!/bin/sh\nexit 101'
  fi
  "${sudo[@]}" apt-get update -qq || true     # it may be a source that these packages are not in
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
    --no-install-recommends slurm-wlm munge iproute2 >/dev/null ||
    die "install: apt-get failed, for the reason above; put that right and run: $0 install"
)

try() { local e; e=$("${@:3}" 2>&1) || die "$1: ${e%%$'\n'*}; $2"; }      # try STEP FIX COMMAND…
check() (   # a subshell, whose end takes away what was made to try
  [[ -z $(missing_tools) ]] || die "$1: missing:$(missing_tools); run: $0 install"
  ns=vs-$name-check root="use a machine where root may do this (a container: --privileged)"
  tidy() { rm --recursive --force "$state.check"; ip netns delete "$ns" &>/dev/null || true; }
  trap '' INT TERM; tidy; trap tidy EXIT      # no stop half-way: it is short
  try "$1: state folder" "set VIRTUAL_CLUSTER_BASE to a folder root can write" mkdir "$state.check"
  try "$1: network namespace" "$root" ip netns add "$ns"
  try "$1: bridge" "load the module bridge; $root" ip -netns "$ns" link add br0 type bridge
  try "$1: veth" "load the module veth; $root" ip -netns "$ns" link add ib0 type veth
  try "$1: device node" "$root" mknod "$state.check/gpu" c 1 3
  try "$1: opening a device" "set VIRTUAL_CLUSTER_BASE to a folder not mounted with nodev" \
    dd if="$state.check/gpu" status=none
  try "$1: host name and mount namespaces" "$root" nsenter --net="/run/netns/$ns" \
    unshare --uts --mount sh -c 'hostname node1 && mount --bind /etc/hosts /etc/hosts'
)

make_network() {    # make_network SUBNET NODES LINK
  local k ns switch=vs-$name-controller
  # The bridge is not the machine's, whose firewall (Docker's, say) drops what a bridge forwards.
  ip netns add "$switch"
  ip -netns "$switch" link add br0 up type bridge
  ip -netns "$switch" address add "$1.254/24" dev br0
  ip link add "$cable" up type veth peer name login netns "$switch"
  ip -netns "$switch" link set login master br0 up
  ip address add "$1.253/24" dev "$cable"
  for ((k = 1; k <= $2; k++)); do
    ns=vs-$name-node$k
    ip netns add "$ns"
    ip -netns "$ns" link add ib0 up type veth peer name "node$k" netns "$switch"
    ip -netns "$switch" link set "node$k" master br0 up
    ip -netns "$ns" address add "$1.$k/24" dev ib0
    # A token bucket holds what it sends at once; a small one keeps the rate even.
    [[ -z $3 ]] || try "up: --link $3" "load the module sch_tbf, or leave --link out" \
      ip netns exec "$ns" tc qdisc add dev ib0 root tbf rate "$3" burst 32kb latency 1s
  done
  for ns in $(namespaces); do ip -netns "$ns" link set lo up; done
}

seconds_of_the_year() { echo $(($(date +%s) - $(date --date="$(date +%Y)-01-01" +%s) + 1)); }

write_files() {     # write_files SUBNET NODES GPUS
  local k cgroup=cgroup/v1
  (umask 077 && head --bytes=1024 /dev/urandom >"$state/munge/key")
  for ((k = 0; k < $3; k++)); do mknod --mode=666 "$state/dev/nvidia$k" c 1 3; done
  # Count= instead of File= makes nodes INVAL; AutoDetect would ask the driver of a real GPU.
  printf '%s\n' AutoDetect=off "Name=gpu File=$state/dev/nvidia[0-$(($3 - 1))]" >"$state/gres.conf"
  # slurmd always loads a cgroup plugin, and v2's fails where there is no systemd. v1's starts
  # anywhere and does nothing unless asked; from 24.05 on none is needed.
  if [[ $(slurmd -V) =~ \ ([0-9]+)\. ]] && ((BASH_REMATCH[1] >= 24)); then cgroup=disabled; fi
  echo "CgroupPlugin=$cgroup" >"$state/cgroup.conf"
  cat >"$SLURM_CONF" <<EOT
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
SlurmdParameters=config_overrides   # more CPUs than the machine has
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none                # binds nothing to CPUs that are not there
GresTypes=gpu
ReturnToService=2
KillWait=10
SlurmdTimeout=60
MessageTimeout=30                   # a machine this busy answers late
EnforcePartLimits=ALL               # refuse a job over the limits at once, as sites do
SchedulerParameters=batch_sched_delay=0,sched_interval=10,bf_interval=10
JobCompType=jobcomp/filetxt
JobCompLoc=$state/log/jobcomp.log
MinJobAge=86400                     # with no accounting, scontrol must remember ended jobs
FirstJobId=$(seconds_of_the_year)      # no id, so no run folder of a rehearsal, comes twice
NodeName=DEFAULT CPUs=64 RealMemory=262144 Gres=gpu:$3
# Without DefMemPerCPU a job takes all memory of its nodes, and none can share them.
PartitionName=main Default=YES Nodes=ALL DefMemPerCPU=1024 DefaultTime=00:30:00 MaxTime=04:00:00
EOT
  # slurmctld looks up the host that a job was submitted from, and a failure costs it 10 s.
  # The lines with ::ffff: are for torch, which warns when a peer's mapped address has no name.
  printf '%s\n' "127.0.0.1 localhost" "::ffff:127.0.0.1 localhost.$name" >"$state/hosts"
  printf '%s\n' "$1.254 controller" "$1.253 ${HOSTNAME%%.*}" >>"$state/hosts"
  for ((k = 1; k <= $2; k++)); do
    printf '%s\n' "$1.$k node$k" "::ffff:$1.$k node$k.$name" >>"$state/hosts"
    echo "NodeName=node$k NodeAddr=$1.$k" >>"$SLURM_CONF"
  done
}

start() {   # start HOST DAEMON…
  # Not `ip netns exec`, under whose /sys slurmd finds no cgroups. A clean environment keeps the
  # caller's secrets out of the daemons; descriptor 9 would keep the lock.
  # shellcheck disable=SC2016     # $1 and $2 are the inner shell's
  nsenter --net="/run/netns/vs-$name-$1" unshare --uts --mount \
    env --ignore-environment PATH="$PATH" SLURM_CONF="$SLURM_CONF" \
    sh -c 'mount --bind "$1" /etc/hosts && hostname "$2" && shift 2 && exec "$@"' \
    sh "$state/hosts" "$@" </dev/null &>>"$state/log/start.log" 9>&- || fail "$2 fails on $1"
}

up() {
  local nodes=4 gpus=8 link='' most shape hash subnet routes k
  while (($#)); do
    case $1 in --nodes) most=32 ;; --gpus) most=16 ;;
      --link)
        [[ ${2-} =~ ^[1-9][0-9]{0,5}(k|m|g)bit$ ]] ||
          die "--link takes a rate such as 100mbit, not '${2-}'" 2
        link=$2; shift 2; continue ;;
      *) die "up has no option '$1'; valid: --nodes, --gpus, --link" 2 ;; esac
    [[ ${2-} =~ ^[1-9][0-9]?$ && $2 -le $most ]] || die "$1 takes 1 to $most, not '${2-}'" 2
    printf -v "${1#--}" %d "$2"; shift 2
  done
  shape="$nodes nodes x $gpus GPUs${link:+, links of $link}"
  trap 'exit 130' INT TERM
  lock up
  check up
  if [[ -e $state/shape && -n $(pids) ]]; then
    [[ $(<"$state/shape") == "$shape" ]] ||
      die "up: already up, but with $(<"$state/shape"); to change that, first run: $0 down"
    { is_up && [[ -z $(sinfo --noheader --dead --format=%N) ]]; } ||
      die "up: already up, but not all of it answers; first run: $0 down"
    say "already up, $shape"
    return
  fi
  trap 'trap "" INT TERM; say "up did not end well, removing it" >&2; teardown' EXIT
  teardown        # what a killed `up` or a restart of the machine left
  # Of 198.18.0.0/15, which is meant for testing networks (RFC 2544) and so hardly ever routed.
  hash=$(cksum <<<"$name" | cut --delimiter=' ' --fields=1)
  for ((k = hash; k < hash + 512; k++)); do
    subnet=198.$((18 + k / 256 % 2)).$((k % 256))
    routes=$({ ip route show to root "$subnet.0/24"; ip route show to match "$subnet.0/24"; } |
      grep --invert-match '^default') || break
  done
  [[ -z $routes ]] || die "up: this machine routes all of 198.18.0.0/15; see: ip route"
  mkdir --mode=755 "$state" "$state/dev" "$state/log" "$state/munge"
  make_network "$subnet" "$nodes" "$link"
  write_files "$subnet" "$nodes" "$gpus"
  start controller munged --key-file="$state/munge/key" --socket="$state/munge/socket" \
    --pid-file="$state/munge/pid" --log-file="$state/munge/log" --seed-file="$state/munge/seed"
  start controller slurmctld
  for ((k = 1; k <= nodes; k++)); do start "node$k" slurmd -N "node$k"; done
  SECONDS=0
  until [[ $(sinfo --noheader --Node --format=%t 2>&1 | grep --count '^idle$') == "$nodes" ]]; do
    ((SECONDS < 60 && $(pids | wc --lines) >= nodes + 2)) || fail "the nodes are not all idle"
    sleep 0.1
  done
  echo "$shape" >"$state/shape"
  trap - EXIT INT TERM
  say "up, $shape; to use it: source <($0 env)"
}

teardown() {
  local i ns left
  if is_up; then                  # jobs may run their traps for as long as KillWait
    timeout 20 scancel --partition=main &>/dev/null || true
    timeout 12 sh -c 'while squeue --noheader --states=running,completing,suspended |
      grep --quiet .; do sleep 0.2; done' &>/dev/null || true
  fi
  for ((i = 0; i < 100; i++)); do # TERM, and after 2 s KILL
    mapfile -t left < <(pids)
    ((${#left[@]})) || break
    ((i > 0 && i < 20)) || kill -$((i ? 9 : 15)) "${left[@]}" 2>/dev/null || true
    sleep 0.1
  done
  ((${#left[@]} == 0)) || die "down: cannot end processes ${left[*]}; try again later"
  # The cable goes with its namespace, but later, and a new `up` may come before.
  ip link delete "$cable" 2>/dev/null || true
  for ns in $(namespaces); do ip netns delete "$ns"; done
  rm --recursive --force --one-file-system "$state" "$state.check"
}

down() {
  lock down
  [[ -e $state || -e $state.check || -n $(namespaces) ]] || { say "already down"; return; }
  trap '' INT TERM
  teardown; say "down"
}

[[ " $* " != *" -h "* && " $* " != *" --help "* ]] || { usage; exit; }
[[ ${1-} =~ ^(install|check|up|status|env|down)$ ]] ||
  die "no command '${1-}'; valid: install, check, up, status, env, down" 2
[[ $1 == up || $# == 1 ]] || die "$1 takes no arguments, not '$2'" 2
[[ $1 != status && $1 != env ]] || is_up || die "$1: no cluster '$name' is up; run: $0 up"
case $1 in
  check) lock check; check check; say "this machine can run it" ;;
  env) printf 'export SLURM_CONF=%q\n' "$SLURM_CONF" ;;
  status)
    say "$(<"$state/shape"), SLURM_CONF=$SLURM_CONF"
    sinfo --Node --format='%8N %.10T %.5c %.8m %8G %E'
    squeue --states=all --sort=i --format='%8i %20j %10T %10M %.5D %R' ;;
  *) "$@" ;;
esac
