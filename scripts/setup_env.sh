#!/usr/bin/env bash
# Make .venv from environment.yml's pip list, once, and again only when a list changes.
#
#   bash scripts/setup_env.sh                 what the jobs and the analysis need
#   bash scripts/setup_env.sh --workloads     and what gpt2 and translation need besides
#   bash scripts/setup_env.sh --test          and what the tests need; pyproject.toml lists both
#   bash scripts/setup_env.sh --torch 2.9.1   with this PyTorch; or `newest`, see environment.yml
#   bash scripts/setup_env.sh --oldest        makes .venv-oldest: Python 3.10, PyTorch 2.5.1, and
#                                             of all else the lowest version of the list
#   bash scripts/setup_env.sh --python        makes nothing; prints the Python that it would use
#
# A .venv keeps the PyTorch that it was made with until --torch names another; --test makes one
# with the newest.
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
import sys
try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, whose pip has it
    from pip._vendor import tomli as tomllib
groups = tomllib.load(open(sys.argv[1], "rb"))["dependency-groups"]
def show(name):
    for each in groups[name]:
        show(each["include-group"]) if isinstance(each, dict) else print(each)
show(sys.argv[2])
PY
  fi
}

# The same with the lowest versions: pandas>=2.2,<4 becomes pandas==2.2.*
list_lowest() {
  list_requirements '' | sed -E 's/>=([0-9.]+),<[^;]*/==\1.*/'
}

# environment.yml's lines of the newest PyTorch, which are comments there.
list_newest() {
  sed -n 's/^ *# - //p' "$repo/environment.yml"
}

# choose_torch VERSION: read requirements, and print them with the wanted lines for PyTorch.
choose_torch() {
  local kept=''
  case $1 in
    '') kept=$(cat -- "$venv"/installed*.txt 2> /dev/null | grep '^torch' | sort --unique || true) ;;
    newest) kept=$(list_newest) ;;
    *) kept=$(printf '%s\n' "torch==$1" torchvision) ;;   # whose release follows from that
  esac
  if [[ -z $kept ]]; then
    cat
  else
    echo "$kept"
    sed '/^torch/d'
  fi
}

# The first Python of at least 3.10 among those named.
find_python() {
  local candidate
  for candidate in "$@"; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2> /dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

# Python 3.10 from PATH, or where pyenv keeps it.
find_oldest_python() {
  local root=${PYENV_ROOT:-$(pyenv root 2> /dev/null || echo "$HOME/.pyenv")}
  find_python python3.10 "$root"/versions/3.10*/bin/python
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
# anew, which takes longer than importing it. The packages' own tests and what installs packages
# are left out: they are two fifths of the work, and nothing here imports them.
compile_packages() {
  local packages
  packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  "$venv/bin/python" -m compileall -q -j 0 -x '/(tests|pip|setuptools|torchgen|testing/_internal)/' \
    "$packages" > /dev/null 2>&1 || true  # some are templates
}

mode='' torch=''
while (($#)); do
  case $1 in
    --workloads | --test | --oldest | --python) mode=$1 ;;
    --torch)
      [[ ${2:-} =~ ^([0-9]+(\.[0-9]+)+|newest)$ ]] || die "--torch takes a version or 'newest'"
      torch=$2
      shift
      ;;
    *) die "unknown option '$1'; there are --workloads, --test, --torch, --oldest and --python" ;;
  esac
  shift
done

if [[ $mode == --oldest ]]; then
  venv=$repo/.venv-oldest torch=2.5.1
  python=$(find_oldest_python) || die "no Python 3.10 on PATH or under pyenv"
else
  python=$(find_python python3 python3.1{4,3,2,1,0}) ||
    die "no python3 of version 3.10 or newer on PATH; install one"
fi
if [[ $mode == --python ]]; then
  echo "$python"
  exit 0
fi
if [[ $mode == --test && -z $torch && ! -e $venv ]]; then torch=newest; fi

wanted=$(mktemp)
trap 'rm -f -- "$wanted"' EXIT
if [[ $mode == --oldest ]]; then
  { list_lowest && printf '%s\n' tokenizers sacrebleu; } | choose_torch "$torch" > "$wanted"
else
  list_requirements "$mode" | choose_torch "$torch" > "$wanted"
fi
echo "# in $(readlink --canonicalize-missing "$venv")" >> "$wanted"    # a copied .venv is a broken one
stamp=$venv/installed${mode}.txt

if cmp --silent "$wanted" "$stamp" && "$venv/bin/python" -c '' 2> /dev/null; then
  exit 0
fi
echo "Installing $(grep --count '^[a-z]' "$wanted") packages and what they need into ${venv##*/}," \
  "with $(grep --max-count=1 '^torch' "$wanted") (PyPI's comes with CUDA: 3 to 6 GB to download)"
if ! [[ -x $venv/bin/python ]] || [[ -f $stamp && $(tail -n 1 "$stamp") != "$(tail -n 1 "$wanted")" ]]; then
  make_venv
fi
install_requirements "$wanted" ||
  die "the packages could not be installed; read the message above, then run this again"
compile_packages
if [[ -n $torch ]]; then rm -f -- "$venv"/installed*.txt; fi
cp -- "$wanted" "$stamp"
