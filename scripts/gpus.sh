# shellcheck shell=bash
# How many GPUs a node gives, and the logger of their memory; node.sh sources this and hands it on
# to run_on_node. It needs GPUS_PER_NODE of the job script.

# count_granted TEXT: 4 for "4", "a100:4", "gpu:a100:4" and "a100:3,v100:1"; else nothing.
count_granted() {
  local part sum=0 parts
  IFS=, read -ra parts <<< "$1"
  for part in "${parts[@]}"; do
    part=${part%%(*}
    [[ $part =~ ^([^,]*:)?([0-9]+)$ ]] || return 0
    ((sum += 10#${BASH_REMATCH[2]}, 1))
  done
  if [[ -n $1 ]]; then echo "$sum"; fi
}

# How many GPUs this task sees; nothing where nobody says.
count_seen() {
  local name ids
  for name in CUDA_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES HIP_VISIBLE_DEVICES; do
    if [[ -v $name ]]; then
      IFS=, read -ra ids <<< "${!name/#NoDevFiles/}"
      echo "${#ids[@]}"
      return
    fi
  done
  if command -v nvidia-smi > /dev/null; then
    nvidia-smi --list-gpus 2> /dev/null | grep --count '^GPU ' | grep --invert-match '^0$' || true
  fi
}

# log_gpus FILE TOOL…: sample this job's GPUs in the background, once per node, with the command that
# is given. Where each of the node's tasks sees a GPU of its own alone, each adds its own to the file.
log_gpus() {
  local file=$1 tools=$2
  if ((${SLURM_LOCALID:-0} > 0)) && [[ $GPUS_PER_NODE == 1 || $(count_seen) != 1 ]]; then return; fi
  if [[ $2 == amd-smi ]]; then tools+=' rocm-smi'; fi
  # shellcheck disable=SC2086  # words
  if [[ -z $(command -v $tools) ]]; then
    echo "No ${tools/ / and no } on ${SLURMD_NODENAME:-$HOSTNAME}: GPU memory is not logged."
  else
    "log_with_${2%-smi}" "${@:3}" >> "$file" &
  fi
}

# log_with_nvidia --query-gpu=FIELDS OPTION…: a driver refuses all of a query that has one field it
# does not know; look first which it knows.
log_with_nvidia() {
  local gpus=() asked=${1#--query-gpu=} fields answer
  # Of this job's GPUs, where Slurm names them; it cannot be asked for slices (MIG).
  if [[ ${CUDA_VISIBLE_DEVICES:-MIG-} != *MIG-* ]]; then gpus=(--id="$CUDA_VISIBLE_DEVICES"); fi
  for fields in "$asked" "${asked/clocks_throttle_reasons/clocks_event_reasons}" \
    "${asked/clocks_throttle_reasons.active,/}" timestamp,index,name,memory.used,memory.total,uuid
  do
    answer=$(nvidia-smi "${gpus[@]}" --query-gpu="$fields" --format=csv,nounits 2>&1) &&
      [[ $answer == timestamp,* ]] && break
  done
  exec nvidia-smi "${gpus[@]}" --query-gpu="$fields" "${@:2}"
}

# log_with_amd metric OPTION… --watch 5
log_with_amd() {
  local gpus now
  # Of this job's GPUs, where Slurm names them.
  IFS=, read -ra gpus <<< "${ROCR_VISIBLE_DEVICES:-${HIP_VISIBLE_DEVICES:-}}"
  if [[ $(amd-smi metric ${gpus[@]+--gpu "${gpus[@]}"} "${@:2:$#-3}" 2> /dev/null) == *,* ]]; then
    exec amd-smi metric ${gpus[@]+--gpu "${gpus[@]}"} "${@:2}"
  fi
  while now=$(date +%s); do                     # it shows no time: put one before each row
    rocm-smi ${gpus[@]+--device "${gpus[@]}"} --showmeminfo vram --showuse --showpower \
      --csv | sed --expression="s/^device,/timestamp,&/; s/^card/$now,&/"
    sleep 5
  done
}

export -f count_seen log_gpus log_with_nvidia log_with_amd
