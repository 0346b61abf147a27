#!/usr/bin/env bash
# All tests, real Slurm jobs included. Installs what they need: .venv, and, as root, Slurm and a
# headless Chromium for the report's page.
#
#   bash scripts/test.sh                everything but the benchmarks, three files at a time
#   bash scripts/test.sh -m benchmark   the benchmarks, on small inputs
#   bash scripts/test.sh -n 0 tests/profiles/test_render.py      anything that pytest takes
#
# Three workers keep two cores busy: a test of Slurm waits half of its time. A file's tests stay on
# one worker, which has a virtual cluster of its own.
# Where no Slurm or no Chromium is, the tests that need one are skipped with the reason; with
# CI=true they fail instead; there a test that fails is tried once more, and the summary names it:
# on a machine that others use too, a process may wait longer than a test does.
set -euo pipefail

# Any Chromium will do; Debian has one without a window, which needs a third of the packages.
install_chromium() {
  local name
  for name in chromium-headless-shell chromium chromium-browser google-chrome; do
    command -v "$name" > /dev/null && return
  done
  command -v apt-get > /dev/null && ((EUID == 0)) || return
  echo "Installing the Debian package chromium-headless-shell"
  apt-get update -qq
  for name in chromium-headless-shell chromium; do
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$name" \
      > /dev/null 2>&1 && return
  done
  return 1
}

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
bash scripts/setup_env.sh --oldest &      # at the same time: most of it is one process's work
oldest=$!
bash scripts/setup_env.sh --test || { wait "$oldest"; exit 1; }
wait "$oldest" || echo "The tests that need a Python 3.10 will be skipped."
bash scripts/virtual_cluster.sh install || echo "The tests that need a Slurm will be skipped."
install_chromium || echo "The tests that need a Chromium will be skipped."
options=(--numprocesses=3 --dist=loadgroup --no-loadscope-reorder --durations=10)
if [[ ${CI:-} == true ]]; then options+=(--reruns=1 -raR); fi
exec .venv/bin/python -m pytest "${options[@]}" "$@"
