# shellcheck shell=bash
# What every job does around its lesson; a job script sources this once it knows its folders:
#
#   source "$REPO_DIR/scripts/job.sh" multi_node.slurm     # its own file's name, to be typed again
#
# It makes the run's folders and sets the traps of the job's own shell, so that a job which ends,
# however it ends, has an exit status in job_end.json and a summary in its log, and goes on in a
# requeued attempt when its time was too short. It needs bash 4.4, `set -euo pipefail`, and of the
# script's section "Paths" REPO_DIR, RESULTS_DIR, GPU_DIR, CPU_DIR, run_dir, run_id, and in a job
# that may be requeued CHECKPOINT_DIR.
# shellcheck disable=SC2154  # run_dir and run_id are the job script's

# Make the run's folders, and name them in the log: fill_tables.py follows that line.
make_run_folders() {
  mkdir -p -- "$RESULTS_DIR" "$GPU_DIR" "$CPU_DIR"
  echo "Results: $run_dir"
}

# write_job_end STATUS: write how the job ended, whole or not at all.
write_job_end() {
  local end=$RESULTS_DIR/job_end.json
  printf '{"exit_status": %d, "elapsed_s": %d}\n' "$1" "$SECONDS" > "$end.tmp" &&
    mv -- "$end.tmp" "$end"
}

# print_summary STATUS: print the last lines of the log: GPU memory, how the job ended, and why.
print_summary() {
  python "$REPO_DIR/scripts/job_summary.py" --run-dir "$run_dir" --run-id "$run_id" \
    --log "log/${SLURM_JOB_NAME}_$SLURM_JOB_ID.out" \
    --exit-status "$1" --elapsed-s "$SECONDS"
}

# Queue the job again, under the same id. Where Slurm refuses, say what to type instead and fail:
# the training is not complete.
requeue() {
  scontrol requeue "$SLURM_JOB_ID" && exit
  echo "Not requeued; type: CHECKPOINT_DIR=${CHECKPOINT_DIR@Q} sbatch $job_file" >&2
  exit 75
}

# The job's exit trap. The exit status is the training's, never the summary's.
finish() {
  local status=${killed:-$?}
  set +e                        # whatever fails here, a full disk for instance, go on
  write_job_end "$status"
  print_summary "$status"
  # The trainer leaves REQUEUE when it has saved because its time ran out.
  if [[ $status == 0 && -n ${CHECKPOINT_DIR:-} && -e $RESULTS_DIR/REQUEUE ]]; then requeue; fi
  exit "$status"
}

job_file=$1 killed=             # killed: not what the submitting shell may have exported
make_run_folders
trap finish EXIT
# A signal to the job itself: bash lets srun end first, then the exit trap runs. TERM: cancelled.
trap 'killed=143' TERM
trap 'killed=129' HUP
trap 'killed=130' INT
trap : USR1                     # the time is nearly up: that is for the trainer
