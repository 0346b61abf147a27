#!/usr/bin/env bash
# What a job with profiler = "nsys" starts once per GPU, with a rank's command as its words: the
# first rank of each node runs below Nsight Systems, the others as they are. Left beside the results:
#   nsys_node<k>.nsys-rep                      for the program nsys-ui
#   nsys_node<k>_cuda_gpu_kern_sum.csv         its kernels, for scaling_tables.py --strategies
# The trainer's --nvtx names the parts of a step, and says where the recording begins and ends.
set -uo pipefail

if ((LOCAL_RANK != 0)); then exec "$@"; fi
if ! command -v nsys > /dev/null; then
  echo "error: $HOSTNAME has no nsys: load its module in the profile's setup, or take" \
    'profiler = "nsys" out of experiments/matrix.toml' >&2
  exit 1
fi
report=$RESULTS_DIR/nsys_node${SLURM_NODEID:-0}
profiled=''
trap '' USR1                                    # the trainer's
trap '[[ -z $profiled ]] || kill -TERM "$profiled"' TERM  # it saves: wait for it
# By itself nsys would end the program together with the recording.
nsys profile --trace=cuda,nvtx --sample=none --cpuctxsw=none --force-overwrite=true \
  --capture-range=cudaProfilerApi --capture-range-end=stop --output="$report" "$@" &
profiled=$!
while kill -0 "$profiled" 2> /dev/null; do wait "$profiled"; done  # past signals
wait "$profiled"
status=$?
if [[ -f $report.nsys-rep ]]; then
  nsys stats --report cuda_gpu_kern_sum --format csv --force-export=true --output "$report" \
    "$report.nsys-rep" > /dev/null || echo "nsys stats failed: $report.nsys-rep is there" >&2
fi
exit "$status"
