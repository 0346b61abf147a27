#!/usr/bin/env bash
# What srun starts on every node: it runs the job script's run_on_node, and sees to it that
#   before  another job than the one that was rendered, or a network name that is wrong on this
#           node, ends the job at once, in one line;
#   during  SIGUSR1 is remembered: a trainer that cannot hear it yet finds STOP_USR1 later;
#   after   nothing stays behind: no logger, and no process that a rank has left.
# The exit status is that of run_on_node. The job script says what it is to be: NODES,
# TASKS_PER_NODE, GPUS_PER_NODE, ACCELERATOR.
set -uo pipefail
source "${BASH_SOURCE[0]%/*}/gpus.sh"

fail() { echo "error: ${SLURMD_NODENAME:-$HOSTNAME} $*" >&2; exit 1; }

# What a starter other than srun numbers, Slurm's own variables do not tell: they are the first
# node's on every node. NODE_RANK_IN names the starter's variable.
take_number() {
  [[ -n ${!NODE_RANK_IN:-} ]] || fail "has no $NODE_RANK_IN; see node_rank in the profile"
  export SLURM_NODEID=${!NODE_RANK_IN} SLURMD_NODENAME=${HOSTNAME%%.*}
}

# pass_by_name PREFIX NAME…: hand a container, which drops the job's variables, what a trainer reads
# and the names; the runtime takes those with its PREFIX.
# shellcheck disable=SC2329  # run_on_node calls it
pass_by_name() {
  local prefix=$1 name
  for name in "${@:2}" REPO_DIR RESULTS_DIR CHECKPOINT_DIR DATA_DIR CACHE_DIR TMPDIR RANK \
    LOCAL_RANK WORLD_SIZE GPUS_PER_NODE MASTER_ADDR MASTER_PORT PEER_ADDR OMP_NUM_THREADS \
    PYTHONUNBUFFERED PYTHONFAULTHANDLER PYTHONNOUSERSITE {CUDA,ROCR,HIP}_VISIBLE_DEVICES "${!SLURM_@}" \
    "${!NCCL_@}" "${!GLOO_@}" "${!TORCH_@}" "${!COMET_@}" "${!WANDB_@}"; do
    [[ ! -v $name ]] || export "$prefix$name=${!name}"
  done
}
export -f pass_by_name

# End here unless this node takes part in the job that the script's header asks for. Slurm has many
# ways to start another: an option of sbatch, a session's variables, a rule of the site.
check_node() {
  local tasks=$TASKS_PER_NODE granted seen=''
  local shape="${SLURM_NTASKS:-?} tasks on ${SLURM_NNODES:-?} nodes"
  if ((${SLURM_NNODES:-NODES} != NODES || ${SLURM_NTASKS:-NODES * tasks} != NODES * tasks ||
    ${SLURM_LOCALID:-0} >= tasks)); then
    fail "was given $shape (${SLURM_STEP_TASKS_PER_NODE:-?} per node), but this job is" \
      "$NODES x $tasks; sbatch it without options, and let Slurm know --ntasks-per-node=$tasks"
  fi
  granted=$(count_granted "${SLURM_GPUS_ON_NODE:-}")
  if [[ $ACCELERATOR != none ]]; then seen=$(count_seen); fi
  # One task per GPU may see its own alone, which is then number 0.
  if ((tasks > 1)) && [[ $seen == 1 ]]; then seen=''; fi
  if ((${granted:-GPUS_PER_NODE} < GPUS_PER_NODE || ${seen:-GPUS_PER_NODE} < GPUS_PER_NODE)); then
    fail "shows ${seen:-$granted} GPUs, but this job is $NODES x $GPUS_PER_NODE" \
      "(SLURM_GPUS_ON_NODE=${SLURM_GPUS_ON_NODE-unset}," \
      "CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-unset}); sbatch it without options and" \
      "outside other jobs, or see gpu_request in the profile"
  fi
  if [[ ${CUDA_VISIBLE_DEVICES:-} == *MIG-* ]] && ((GPUS_PER_NODE > tasks)); then
    fail "has slices (MIG), and one process sees one slice: ask for whole GPUs, or" \
      'set launcher = "srun" in the profile with one slice per task'
  fi
  if ((${granted:-0} > GPUS_PER_NODE && ${SLURM_LOCALID:-0} == 0)); then
    echo "Slurm gave ${SLURMD_NODENAME:-$HOSTNAME} $granted GPUs; this job uses $GPUS_PER_NODE."
  fi
}

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
  local address=''
  check_interfaces GLOO_SOCKET_IFNAME
  if command -v nvidia-smi rocm-smi amd-smi > /dev/null; then check_interfaces NCCL_SOCKET_IFNAME; fi
  if ((${SLURM_NNODES:-1} > 1)) && command -v getent > /dev/null; then
    read -r address _ < <(timeout 20 getent ahosts "$MASTER_ADDR")
    if [[ -z $address ]]; then
      fail "cannot resolve $MASTER_ADDR, where all nodes meet; see master in the profile"
    elif ((${SLURM_NODEID:-0} > 0)) && [[ $address == 127.* || $address == ::1 ]]; then
      fail "takes $MASTER_ADDR, where all nodes meet, for itself ($address); see master in the profile"
    fi
  fi
  # The first node cannot ask which interface leads to itself: it is told of another node.
  if ((NODES > 1 && ${SLURM_NODEID:-0} == 0)) && command -v scontrol > /dev/null; then
    PEER_ADDR=$(scontrol show hostnames "${SLURM_JOB_NODELIST:-}" 2> /dev/null | tail --lines=1)
    export PEER_ADDR
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
if [[ -n ${NODE_RANK_IN:-} ]]; then take_number; fi
check_node
check_network
task=${SLURM_JOB_ID:-}.$HOSTNAME.$$
# A bash of its own: what it starts has NODE_TASK in its environment from the first moment.
# A line of step_setup that fails without a word is named; the launcher's status is no such line.
# shellcheck disable=SC2016  # for that bash
name_failed='trap "failed=\$?; [[ \$BASH_SUBSHELL != 0 || \$BASH_COMMAND == wait* ]] ||
  echo \"error: $SLURMD_NODENAME: status \$failed of: \$BASH_COMMAND\" >&2" ERR; run_on_node'
(trap '' USR1; NODE_TASK=$task TASKS_PARENT=$PPID exec bash -E -c "$name_failed") &
child=$!
while kill -0 "$child" 2> /dev/null; do wait "$child"; done   # past signals
wait "$child"
status=$?
end_rest
exit "$status"
