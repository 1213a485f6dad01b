#!/usr/bin/env bash
# Keeps a run going over preemptions: creates the TPU if it is gone, sets it up, starts the run, looks every minute, and
# starts again what has stopped, until the run has come to its end or stopped at an error that a person must mend:
#
#   bash launch/tpu_babysit.sh [--dry-run] [FLAGS OF tvts_jax.main ...]
#
# Leave it in a tmux on a machine that stays up. Exit codes: 0 the run has ended, 1 it stopped at an error.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/tpu.env
. "$here/tpu.env"
more=()
if [ "$dry" ]; then more=(--dry-run); fi

started=
while :; do
  state=$(state)
  if [ "$state" != ACTIVE ]; then
    echo "$(date +%T) $NAME is $state: creating it, or waiting for it"
    case $state in
      FAILED | SUSPENDED) run gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet ;;
    esac
    bash "$here/tpu_create.sh" "${more[@]}" || { sleep 60; continue; }
    bash "$here/tpu_setup.sh" "${more[@]}" || { sleep 60; continue; }
  elif [ "$started" ]; then
    # 0: trained to the end; 1 or 2: an error to mend. With all else it was stopped or lost, and goes on below.
    case $(on_first 'cat tvts_jax/exit_code 2> /dev/null || true' || true) in
      0) echo "$(date +%T) $NAME: the run has ended"; exit 0 ;;
      1 | 2) echo 'tpu_babysit: the run stopped at an error; bash launch/tpu_logs.sh shows it' >&2; exit 1 ;;
    esac
  fi
  bash "$here/tpu_run.sh" "${more[@]}" "$@" && started=yes
  if [ "$dry" ]; then exit 0; fi
  sleep 60
done
