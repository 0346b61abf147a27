# shellcheck shell=bash
# What every job does around its lesson; a job script sources this once it knows its folders:
#
#   source "$REPO_DIR/scripts/job.sh" multi_node.slurm     # its own file's name, to be typed again
#                                          and behind it what the site has in place of sbatch
#
# It makes the run's folders and sets the traps of the job's own shell, so that a job which ends,
# however it ends, has an exit status in job_end.json and a summary in its log, and goes on in a
# requeued attempt when its time was too short. It needs bash 4.4, `set -euo pipefail`, and of the
# script's section "Paths" REPO_DIR, RESULTS_DIR, GPU_DIR, CPU_DIR, run_dir, run_id, and in a job
# that may be requeued CHECKPOINT_DIR. The script then calls choose_port and launch.
# shellcheck disable=SC2154  # run_dir and run_id are the job script's

# ---- Before the training -------------------------------------------------------------

# srun reads SLURM_* as options, and sbatch hands on those of the shell it was typed in, which may
# be a job itself: a session in Jupyter or VS Code. Forget what this job's header did not ask for.
forget_session() {
  local asked name option
  # What sbatch never sets itself …
  unset "${!SLURM_CPU_BIND@}" "${!SLURM_MEM_BIND@}" SLURM_{EXCLUSIVE,GRES,GRES_FLAGS} \
    SLURM_{STEP_GRES,CORE_SPEC,THREAD_SPEC,EXACT,OVERLAP,WHOLE,HOSTFILE,REMOTE_CWD,WORKING_DIR} \
    SLURM_{CONSTRAINT,PARTITION,RESERVATION,TIMELIMIT,WAIT,LABELIO,STDINMODE,STDOUTMODE} \
    SLURM_{STDERRMODE,MULTI_PROG,NO_KILL,THREADS,USE_MIN_NODES} SRUN_{CPUS_PER_TASK,EXPORT_ENV}
  # … and what it sets where the header has the option of that name.
  mapfile -t asked < <(sed --quiet 's/^#SBATCH --\([a-z-]*\).*/\1/p' "$0" 2> /dev/null)
  for name in HINT DISTRIBUTION OVERCOMMIT THREADS_PER_CORE MEM_PER_{CPU,GPU,NODE} GPU_{BIND,FREQ} \
    GPUS GPUS_PER_{NODE,TASK,SOCKET} CPUS_PER_{GPU,TASK} TRES_PER_TASK \
    NTASKS_PER_{NODE,GPU,TRES,CORE,SOCKET}; do
    option=${name,,}
    if [[ $name == MEM_PER_NODE ]]; then option=mem; fi
    if [[ " ${asked[*]} " != *" ${option//_/-} "* ]]; then unset "SLURM_$name"; fi
  done
  # Some Slurms do not tell how many CPUs a task has, though the header asks for them.
  if [[ -n ${CPUS_PER_TASK:-} && ! ${SLURM_CPUS_PER_TASK:-} =~ ^[0-9]+$ ]]; then
    export SLURM_CPUS_PER_TASK=$CPUS_PER_TASK
  fi
}

# Name a line of the script that fails without a word, such as `[ -n "$X" ] && …` at the end of a
# file of the site's. What the launcher's status means, the summary says.
name_failed_line() {
  if [[ -z $launched ]]; then echo "error: line $2 failed with status $1: $3" >&2; fi
}

# Make the run's folders, and name them in the log: fill_tables.py follows that line.
make_run_folders() {
  local why
  why=$(mkdir -p -- "$RESULTS_DIR" "$GPU_DIR" "$CPU_DIR" 2>&1) || {
    echo "error: ${why//$'\n'/; }; choose another folder: RUN_DIR=… $sbatch $job_file" >&2
    exit 2
  }
  echo "Results: $run_dir"
}

# Say which sources the job runs, of one that submit.py submitted: those of that time, or others.
tell_sources() {
  local changed list=${SUBMITTED_SOURCES:-}
  unset SUBMITTED_SOURCES       # sbatch may be typed in this job, too
  if [[ $list == "$REPO_DIR"/* ]]; then
    echo "Sources: as they were at submission, in $REPO_DIR"
  elif [[ -r $list ]] && ! changed=$(cd "$REPO_DIR" && sha256sum --check --quiet "$list" 2> /dev/null)
  then
    changed=$(cut --delimiter=: --fields=1 <<< "$changed" | head --lines=9)
    echo "Sources: changed since submission: ${changed//$'\n'/, }"
  fi
}

# Say it where Slurm's warning comes before the training can have begun, as after `--time=2`.
tell_short_time() {
  local margin_s end left_s
  margin_s=$(sed --quiet 's/^#SBATCH --signal=USR1@\([0-9]*\).*/\1/p' "$0" 2> /dev/null) || return 0
  end=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e 2> /dev/null) || return 0
  if [[ -z $margin_s || $end != [0-9]* ]]; then return 0; fi
  left_s=$(($(date --date="$end" +%s) - $(date +%s)))
  if ((left_s < margin_s + 60)); then
    echo "Short: the time limit is in $left_s s, and Slurm warns $margin_s s before it: the training" \
      "will save at its first step and get no further; ask for more --time"
  fi
}

# choose_port FIRST LAST: export MASTER_PORT, one that nobody listens on at MASTER_ADDR.
choose_port() {
  first_port=$1 ports=$(($2 - $1 + 1))
  export MASTER_PORT=$((first_port + SLURM_JOB_ID % ports))
  pass_taken_ports
}

# Each job steps by a stride of its own: two that are after the same port part at once.
pass_taken_ports() {
  local try stride=$((1 + SLURM_JOB_ID * 7919 % ports))
  for ((try = 0; try < 200; try++)); do
    (: < "/dev/tcp/$MASTER_ADDR/$MASTER_PORT") 2> /dev/null || return 0
    MASTER_PORT=$((first_port + (MASTER_PORT - first_port + stride) % ports))
  done
  echo "error: 200 ports of $MASTER_ADDR are in use; see port_range in the profile" >&2
  exit 2
}

# launch COMMAND…: run it on the job's nodes. Between choosing a port and binding it another job may
# take it; so look again now, and once more when the training could not begin because of that.
launch() {
  local status=0 log_bytes began=$SECONDS
  launched=yes
  if [[ -n $first_port ]]; then pass_taken_ports; fi
  log_bytes=$(stat --format=%s -- "$log" 2> /dev/null) || log_bytes=0
  "$@" || status=$?
  if ((status == 0 || SECONDS - began > 600)) || [[ -n $killed || -z $first_port ]] ||
    [[ -e $RESULTS_DIR/run.json ]] || ! grep --quiet --ignore-case --extended-regexp \
    'EADDRINUSE|address already in use' < <(tail --bytes="+$((log_bytes + 1))" -- "$log"); then
    return "$status"
  fi
  local taken=$MASTER_PORT
  pass_taken_ports
  echo "Another job took port $taken: starting once more, with $MASTER_PORT."
  "$@"
}

# ---- The end -------------------------------------------------------------------------

# write_job_end STATUS: write how the job ended, whole or not at all; and the signal it got, if any.
write_job_end() {
  local end=$RESULTS_DIR/job_end.json signal=
  if [[ -n $killed ]]; then signal=", \"signal\": \"$(kill -l "$killed")\""; fi
  printf '{"exit_status": %d, "elapsed_s": %d%s}\n' "$1" "$SECONDS" "$signal" > "$end.tmp" &&
    mv -- "$end.tmp" "$end"
}

# Find a Python for the summary, which needs nothing else: this node's, or the trainer's image has
# one; a script with a container defines in_container.
find_python() {
  local name
  for name in python python3 python3.1{4,3,2,1,0} 'in_container python'; do
    # shellcheck disable=SC2086  # two words
    if $name -c 'import sys; sys.exit(sys.version_info < (3, 10))' &> /dev/null; then
      echo "$name"
      return
    fi
  done
  return 1
}

# print_summary STATUS: print the last lines of the log: GPU memory, how the job ended, and why.
print_summary() {
  local python
  if read -ra python < <(find_python); then
    "${python[@]}" "$REPO_DIR/scripts/job_summary.py" --run-dir "$run_dir" --run-id "$run_id" \
      --log "$log" --exit-status "$1" --elapsed-s "$SECONDS"
  else
    echo "Job $run_id: ended with exit status $1 after $SECONDS s"
    say_fix "no Python 3.10 or newer on PATH"
  fi
}

# say_fix WHAT: the line for a job whose software is missing.
say_fix() {
  echo "error: $1; see the Software section of $job_file: load the site's module, or make" \
    "the environment with: bash scripts/setup_env.sh" >&2
}

# Queue the job again, under the same id. Where Slurm refuses, say what to type instead and fail:
# the training is not complete.
requeue() {
  local job=$SLURM_JOB_ID
  # The id alone of an array's first task means the whole array, finished tasks too.
  if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
  scontrol requeue "$job" && exit 0
  echo "Not requeued; type: CHECKPOINT_DIR=${CHECKPOINT_DIR@Q} $sbatch $job_file" >&2
  exit 75
}

# The job's exit trap. The exit status is the training's, never the summary's.
finish() {
  local status=$?
  set +e                        # whatever fails here, a full disk for instance, go on
  if [[ -n $killed ]]; then status=$((128 + killed)); fi
  write_job_end "$status"
  if ((status == 127)) || [[ $status == 1 && -z $launched$killed ]]; then
    say_fix "the training was not started, or a command is missing: the line above says which"
  fi
  print_summary "$status"
  if [[ -n ${CHECKPOINT_DIR:-} && ! -e $RESULTS_DIR/RUN_COMPLETE.txt ]]; then
    # The trainer leaves REQUEUE when it has saved because its time ran out. What went wrong after
    # that cost nothing; but who cancels a job does not want it back.
    if [[ -e $RESULTS_DIR/REQUEUE && -z $killed ]]; then
      if ((status)); then echo "The training had saved before it ended so: it goes on."; fi
      requeue
    fi
  fi
  exit "$status"
}

# What the submitting shell may have exported under these names is not meant.
job_file=$1 sbatch=${2:-sbatch} log=log/${SLURM_JOB_NAME}_$SLURM_JOB_ID.out
killed='' launched='' first_port='' ports=''
forget_session
export SLURM_EXPORT_ENV=ALL     # after `sbatch --export=NONE`, too, srun hands on what is set here
make_run_folders
tell_sources
tell_short_time
trap finish EXIT
trap 'name_failed_line $? $LINENO "$BASH_COMMAND"' ERR
# A signal to the job itself: bash lets srun end first, then the exit trap runs. TERM: cancelled.
trap 'killed=15' TERM
trap 'killed=1' HUP
trap 'killed=2' INT
trap : USR1                     # the time is nearly up: that is for the trainer
