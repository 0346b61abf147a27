#!/usr/bin/env bash
# All tests, real Slurm jobs included. Installs what they need: .venv, and Slurm as root.
#
#   bash scripts/test.sh                everything (about ten minutes on two cores)
#   bash scripts/test.sh -m 'not slurm' tests/test_render.py      anything that pytest takes
#
# Where no Slurm can run, the tests that need one are skipped with the reason; with CI=true they
# fail instead.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
bash scripts/setup_env.sh --test
bash scripts/virtual_cluster.sh install || echo "The tests that need a Slurm will be skipped."
exec .venv/bin/python -m pytest "$@"
