#!/usr/bin/env bash
# Sets up this machine once, in .venv, then runs the demo or the tests:
#
#   bash launch/local.sh                the demo
#   bash launch/local.sh test           the tests
#   bash launch/local.sh test --all     and the long ones
#
# What follows `test` goes to pytest. PYTHON=/path/to/python3.12 chooses the Python, which must be 3.11, 3.12 or 3.13;
# otherwise the newest is taken.
set -euo pipefail
# Much of what a short process does is to import: it should find what an earlier one has compiled.
unset PYTHONDONTWRITEBYTECODE
cd "$(dirname "$0")/.."

task=${1:-demo}
case $task in
  demo) extras= ;;
  test) extras='[test]' ;;
  *) echo "launch/local.sh: '$task' is neither demo nor test" >&2; exit 2 ;;
esac

# It must run, which a shim need not, and be able to make environments, which Debian has in another package.
fits() { "$1" -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2> /dev/null; }
if [ ! -x .venv/bin/python ]; then
  for python in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
    fits "$python" && break
    python=
  done
  [ -n "${python:-}" ] || { echo 'launch/local.sh: needs Python 3.11, 3.12 or 3.13; install one or set PYTHON' >&2; exit 1; }
  "$python" -m venv .venv
fi

# A stamp says what is installed, so that a second call starts at once. The tests' packages include the demo's.
want=$(cat requirements.txt pyproject.toml; echo "$extras")
if [[ "$(cat .venv/installed 2>/dev/null)" != "$want"* ]]; then
  echo 'setting up .venv (once; a few minutes) ...' >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt -e ".$extras"
  echo "$want" > .venv/installed
fi

run() { echo "\$ python $*" >&2; .venv/bin/python "$@"; }

if [ "$task" = test ]; then
  .venv/bin/ruff check .
  .venv/bin/ruff format --check .
  run -m pytest "${@:2}"
  exit
fi

# Arrays on huge pages: the kernel has far fewer pages to find and clear, which is a quarter of a large step on CPUs.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

# Each of these is the command that one runs on data of one's own, and goes on where an earlier call stopped.
root=${ROOT:-runs/demo}
run -m data.world --out "$root/world" --probe-train 0 --probe-test 0
run -m data.build "$root/world/index.jsonl" --out "$root/shards" \
  --window-s 12 --seconds 2 --fps 1.5 --short-side 32 --min-words 1
[ -d "$root/vocab" ] || run -m data.vocab "$root/shards" --out "$root/vocab" --size 256
[ -d "$root/text" ] || run -m tvts_jax.warm_text --config="configs/demo.py:root=$root" --tokenizer="$root/vocab" --out="$root/text"
run -m tvts_jax.main --config="configs/demo.py:root=$root" --workdir="$root/run"
echo "the report: $root/run/report.html" >&2
