#!/usr/bin/env bash
# Keeps a run going over preemptions: creates the TPU if it is gone, sets it up, starts the run, looks every minute, and
# starts again what has stopped, until the run has come to its end or stopped at an error that a person must mend. Then
# it prints the end of the log and deletes the TPU, which would be billed on:
#
#   bash launch/tpu_babysit.sh [--dry-run] [--keep] [FLAGS OF tvts_jax.main ...]
#
# --keep leaves the TPU there. Leave this in a tmux on a machine that stays up; if it is interrupted, TPU and run stay.
# Exit codes: 0 the run has ended, 1 it stopped at an error, or the TPU could not be deleted.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/tpu.env
. "$here/tpu.env"
more=()
if [ "$dry" ]; then more=(--dry-run); fi
keep=
if [ "${1:-}" = --keep ]; then
  keep=yes
  shift
fi
delete=(gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet)

# `finish CODE`: leaves, without a TPU that nobody uses.
finish() {
  if [ "$keep" ]; then
    echo "$NAME is kept, and billed until this deletes it: ${delete[*]}"
    exit "$1"
  fi
  on_first 'tail -n 100 tvts_jax/train.log' || true
  for _ in 1 2 3 4 5; do
    run "${delete[@]}" && exit "$1"
    sleep 60
  done
  echo "tpu_babysit: $NAME could not be deleted and is billed; run: ${delete[*]}" >&2
  exit 1
}

started=
while :; do
  state=$(state)
  if [ "$state" != ACTIVE ]; then
    echo "$(date +%T) $NAME is $state: creating it, or waiting for it"
    case $state in
      FAILED | SUSPENDED) run "${delete[@]}" || { sleep 60; continue; } ;;
    esac
    bash "$here/tpu_create.sh" "${more[@]}" || { sleep 60; continue; }
    bash "$here/tpu_setup.sh" "${more[@]}" || { sleep 60; continue; }
  elif [ "$started" ]; then
    # 0: trained to the end; 1 or 2: an error to mend. With all else it was stopped or lost, and goes on below.
    case $(on_first 'cat tvts_jax/exit_code 2> /dev/null || true' || true) in
      0) echo "$(date +%T) $NAME: the run has ended"; finish 0 ;;
      1 | 2) echo 'tpu_babysit: the run stopped at an error, which its log names' >&2; finish 1 ;;
    esac
  fi
  bash "$here/tpu_run.sh" "${more[@]}" "$@" && started=yes
  if [ "$dry" ]; then finish 0; fi
  sleep 60
done
