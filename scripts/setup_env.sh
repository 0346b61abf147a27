#!/usr/bin/env bash
# Make .venv from environment.yml's pip list, once, and again only when a list changes.
#
#   bash scripts/setup_env.sh              what the jobs and the analysis need
#   bash scripts/setup_env.sh --workloads  and what gpt2 and translation need besides
#   bash scripts/setup_env.sh --test       and what the tests need; pyproject.toml lists both
#   bash scripts/setup_env.sh --python     makes nothing; prints the Python that it would use
set -euo pipefail

repo=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=$repo/.venv

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# environment.yml's pip list, one requirement per line: the lines below "- pip:".
list_requirements() {
  sed -n '/^ *- pip:/,$ { s/ *#.*//; s/^ \{6\}- //p }' "$repo/environment.yml"
  if [[ -n $1 ]]; then
    "$python" - "$repo/pyproject.toml" "${1#--}" <<'PY'
import sys, tomllib
groups = tomllib.load(open(sys.argv[1], "rb"))["dependency-groups"]
def show(name):
    for each in groups[name]:
        show(each["include-group"]) if isinstance(each, dict) else print(each)
show(sys.argv[2])
PY
  fi
}

# A Debian python3 comes without ensurepip; the package that brings it has another name.
make_venv() {
  local log
  log=$(mktemp)
  if "$python" -m venv --clear "$venv" > "$log" 2>&1; then
    rm -f -- "$log"
    return
  fi
  rm -rf -- "$venv"
  local sudo=()
  ((EUID == 0)) || sudo=(sudo)
  if command -v apt-get > /dev/null && { ((EUID == 0)) || command -v sudo > /dev/null; }; then
    echo "Installing the Debian package python3-venv, which python3 -m venv needs"
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv > /dev/null
    "$python" -m venv "$venv"
  else
    tail -n 3 "$log" >&2
    die "could not make $venv; install the package python3-venv, then run this again"
  fi
}

# uv installs in seconds what pip installs in minutes; either gives the same environment.
install_requirements() {
  local uv
  uv=$(command -v uv || true)
  if [[ -z $uv ]] && "$venv/bin/python" -m pip install --quiet uv 2> /dev/null; then
    uv=$venv/bin/uv
  fi
  if [[ -n $uv ]]; then
    "$uv" pip install --quiet --python "$venv/bin/python" --requirement "$1"
  else
    "$venv/bin/python" -m pip install --quiet --requirement "$1"
  fi
}

# Compile what was installed: uv does not, and where Python may not write beside the packages
# (PYTHONDONTWRITEBYTECODE, an environment shared read-only) each process would compile PyTorch
# anew, which takes longer than importing it.
compile_packages() {
  local packages
  packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  "$venv/bin/python" -m compileall -q -j 0 "$packages" > /dev/null 2>&1 || true  # some are templates
}

mode=${1:-}
case $mode in
  '' | --workloads | --test | --python) ;;
  *) die "unknown option '$mode'; there are --workloads, --test and --python" ;;
esac

python=''
for candidate in python3 python3.13 python3.12 python3.11; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
    python=$candidate
    break
  fi
done
[[ -n $python ]] || die "no python3 of version 3.11 or newer on PATH; install one"
if [[ $mode == --python ]]; then
  echo "$python"
  exit 0
fi

wanted=$(mktemp)
trap 'rm -f -- "$wanted"' EXIT
list_requirements "$mode" > "$wanted"
echo "# in $(readlink --canonicalize-missing "$venv")" >> "$wanted"    # a copied .venv is a broken one
stamp=$venv/installed${mode}.txt

if cmp --silent "$wanted" "$stamp" && "$venv/bin/python" -c '' 2> /dev/null; then
  exit 0
fi
echo "Installing $(grep --count '>=' "$wanted") packages and what they need into .venv"
if ! [[ -x $venv/bin/python ]] || [[ -f $stamp && $(tail -n 1 "$stamp") != "$(tail -n 1 "$wanted")" ]]; then
  make_venv
fi
install_requirements "$wanted" ||
  die "the packages could not be installed; read the message above, then run this again"
compile_packages
cp -- "$wanted" "$stamp"
