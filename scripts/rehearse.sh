#!/usr/bin/env bash
# The whole workshop on this one machine: a real Slurm, real training, the filled tables.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash scripts/rehearse.sh [--workload W] [--all] [--data DIR] [--keep]

Makes .venv, installs Slurm when it is missing (Debian or Ubuntu, as root), starts a virtual
cluster, submits the baseline, 2 GPUs and 2 nodes x 2 GPUs, shows their progress, prints the filled
tables and takes the cluster down. On two cores it takes about five minutes, the environment aside.

  --workload W  gpt2, translation, spiral or minimal (train_minimal.py) at every scale they have,
                instead of tinyimagenet
  --all         all seven scales on 8 nodes (about 20 minutes on two cores)
  --data DIR    the workload's data, a TinyImageNet folder for instance, which takes hours on a few
                cores (default: handwritten digits; Python's own sources; Django's translations)
  --keep        leave the cluster up afterwards
  -h, --help    this text

Everything it makes is in rehearsal/ and data/; experiments/ is not touched.
TEXT
}

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

say() {
  printf '\n==> %s\n' "$*"
}

all=false keep=false data='' workload=tinyimagenet
while (($#)); do
  case $1 in
    --all) all=true ;;
    --keep) keep=true ;;
    --data)
      (($# > 1)) || die "--data needs a folder"
      [[ -d $2 ]] || die "$2 is not a folder; make one with scripts/prepare_data.py"
      data=$(realpath -- "$2")
      shift
      ;;
    --workload)
      [[ ${2-} =~ ^(tinyimagenet|gpt2|translation|spiral|minimal)$ ]] ||
        die "--workload needs tinyimagenet, gpt2, translation, spiral or minimal"
      workload=$2
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) die "unknown option '$1'; there are --workload W, --all, --data DIR, --keep and --help" ;;
  esac
  shift
done

repo=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$repo"
if [[ $workload =~ ^(tinyimagenet|minimal)$ && -n $data && ! (-d $data/train && -d $data/val) ]]; then
  die "no train/ and val/ in $data; make them with scripts/prepare_data.py tinyimagenet"
fi
if [[ $workload != tinyimagenet ]]; then
  nodes=2 scales=(--all)
elif $all; then
  nodes=8 scales=(baseline multi_gpu/{2,4,8}_gpus multi_node/{2,4,8}_nodes)
else
  nodes=2 scales=(baseline multi_gpu/2_gpus multi_node/2_nodes)
fi

# The virtual cluster needs root; the jobs are whoever's who runs this.
cluster() {
  local keep=VIRTUAL_CLUSTER_NAME,VIRTUAL_CLUSTER_BASE
  if ((EUID == 0)); then
    scripts/virtual_cluster.sh "$@"
  elif command -v sudo > /dev/null; then
    sudo --preserve-env="$keep" scripts/virtual_cluster.sh "$@"
  else
    die "starting a virtual cluster needs root, and there is no sudo; run this as root"
  fi
}

# Whatever happens from here on, Ctrl-C included, a cluster that this started goes down again.
take_down() {
  local status=$?
  trap - EXIT INT TERM
  if ! $ours; then
    say "The virtual cluster was up before, and stays up"
  elif $keep && ((status == 0)); then
    say "The cluster stays up; to use it: source <(scripts/virtual_cluster.sh env)"
    echo "To end it: scripts/virtual_cluster.sh down"
  else
    cluster down || true
  fi
  exit "$status"
}

# What cannot be fixed here is found out before anything is installed.
bash scripts/setup_env.sh --python > /dev/null
((EUID != 0)) || unshare --net --uts --mount true 2> /dev/null ||
  die "this machine lets root make no namespaces; in a container, start it with --privileged"
cluster install
ours=true
if scripts/virtual_cluster.sh status > /dev/null 2>&1; then
  ours=false
  # shellcheck disable=SC1090
  source <(scripts/virtual_cluster.sh env)
  [[ -z $(squeue --noheader) ]] ||
    die "jobs run on the virtual cluster and would share its cores; wait for them, or scancel them"
else
  cluster check
fi

say "Environment"
if [[ $workload == gpt2 || $workload == translation ]]; then
  bash scripts/setup_env.sh --workloads
else
  bash scripts/setup_env.sh
fi
source .venv/bin/activate

say "Data"
if [[ -z $data ]]; then
  data=$repo/data/$workload
  case $workload in
    tinyimagenet | minimal)
      data=$repo/data/digits
      python scripts/prepare_data.py tinyimagenet --digits data/digits
      ;;
    gpt2) python scripts/prepare_data.py gpt2 data/gpt2 --vocab-size 2048 --max-bytes 2000000 ;;
    translation)
      python scripts/prepare_data.py translation data/translation --max-pairs 5000 \
        --vocab-size 4000 --gettext "$(python -c 'import django; print(*django.__path__)')" \
        --language de nl sv fr it es pt
      ;;
    *) echo "The spiral's points are made by its trainer" ;;
  esac
fi
export DATA_DIR=$data REPO_DIR=$repo

say "Job scripts for the virtual cluster"
python render.py --cluster virtual --workload "$workload" --to rehearsal

say "Virtual cluster of $nodes nodes"
trap take_down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
cluster up --nodes "$nodes" --gpus 8
# shellcheck disable=SC1090
source <(cluster env)

say "Jobs: ${scales[*]}, one after the other"
# Two at once would share the cores, and neither would show its own speed.
failed=false tables=rehearsal/tables/$workload.md
rm -f -- "$tables"
python scripts/submit.py --experiments rehearsal --workload "$workload" --after --watch \
  --interval 1 --yes "${scales[@]}" || failed=true

say "Scaling tables, as the last job wrote them"
[[ -f $tables ]] || die "the job that writes the tables did not; its log is in rehearsal/tables/"
cat -- "$tables"
! $failed || die "not every job was completed; the end of its log is above"
python scripts/plot_scaling.py rehearsal --out rehearsal/plots > /dev/null
say "The tables are in $tables, plots in rehearsal/plots/, each run's log is named above"
