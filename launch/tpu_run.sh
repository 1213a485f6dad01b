#!/usr/bin/env bash
# Starts the run on every host of the TPU, in the background; it lives on when this machine goes away:
#
#   bash launch/tpu_run.sh [--dry-run] [FLAGS OF tvts_jax.main ...]
#
# such as --config.optim.lr=3e-4. The same command resumes a run that has stopped; one that lives it leaves alone.
# launch/tpu_logs.sh shows what it says.
set -euo pipefail
# shellcheck source=launch/tpu.env
. "$(dirname "$0")/tpu.env"

flags=$(printf ' %q' --config="$CONFIG" --workdir="$WORKDIR" "$@")
script=".venv/bin/python -m tvts_jax.main$flags; echo \$? > exit_code"
on_all "cd tvts_jax && if grep -qs tvts_jax.main /proc/\$(cat train.pid 2> /dev/null)/cmdline; then echo already running; else
  rm -f exit_code; nohup bash -c $(printf %q "$script") >> train.log 2>&1 < /dev/null & echo \$! > train.pid; fi"
