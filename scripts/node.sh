#!/usr/bin/env bash
# What srun starts on every node: it runs the job script's run_on_node, and sees to it that
#   before  a network name that is wrong on this node ends the job at once, in one line;
#   during  SIGUSR1 is remembered: a trainer that cannot hear it yet finds STOP_USR1 later;
#   after   nothing stays behind: no logger, and no process that a rank has left.
# The exit status is that of run_on_node.
set -uo pipefail

fail() { echo "error: ${SLURMD_NODENAME:-$HOSTNAME} $1" >&2; exit 1; }

# check_interfaces VARIABLE: one of the interfaces that it names must be on this node. NCCL takes
# the beginnings of names, "=name" for a whole one and "^name" for any other.
check_interfaces() {
  local names interfaces interface name
  IFS=, read -ra names <<< "${!1:-}"
  if ((${#names[@]} == 0)) || [[ ${names[0]} == ^* ]]; then return; fi
  mapfile -t interfaces < <(sed --quiet 's/^ *\(.*\):.*/\1/p' /proc/net/dev)
  for interface in "${interfaces[@]}"; do
    for name in "${names[@]}"; do
      if [[ $interface == "${name#=}" || ($1 == NCCL* && $interface == "$name"*) ]]; then return; fi
    done
  done
  fail "has no network interface ${!1} ($1); it has: ${interfaces[*]}; set $1 in the profile's [env]"
}

check_network() {
  check_interfaces GLOO_SOCKET_IFNAME
  if command -v nvidia-smi rocm-smi amd-smi > /dev/null; then check_interfaces NCCL_SOCKET_IFNAME; fi
  if ((${SLURM_NNODES:-1} > 1)) && command -v getent > /dev/null; then
    timeout 20 getent ahosts "$MASTER_ADDR" > /dev/null ||
      fail "cannot resolve $MASTER_ADDR, where all nodes meet; see master in the profile"
  fi
}

# Print the ids of the processes that run_on_node has started, theirs included, whoever their
# parent is now: they have inherited the variable NODE_TASK.
list_rest() {
  local files
  files=$(grep --files-with-matches --null-data --line-regexp --fixed-strings \
    "NODE_TASK=$task" /proc/[0-9]*/environ 2> /dev/null)
  echo "${files//[!0-9$'\n']/}"
}

# End what is left: SIGTERM, and after 5 s SIGKILL.
end_rest() {
  local try
  # shellcheck disable=SC2046  # the ids are words
  kill $(list_rest) 2> /dev/null
  for ((try = 0; try < 25; try++)); do
    [[ -n $(list_rest) ]] || return
    sleep 0.2
  done
  # shellcheck disable=SC2046
  kill -KILL $(list_rest) 2> /dev/null
}

trap ': > "$RESULTS_DIR/STOP_USR1"' USR1
trap : TERM                     # the trainer saves: wait for it
check_network
task=${SLURM_JOB_ID:-}.$HOSTNAME.$$
# A bash of its own: what it starts has NODE_TASK in its environment from the first moment.
(trap '' USR1; NODE_TASK=$task TASKS_PARENT=$PPID exec bash -c run_on_node) &
child=$!
while kill -0 "$child" 2> /dev/null; do wait "$child"; done   # past signals
wait "$child"
status=$?
end_rest
exit "$status"
