#!/usr/bin/env bash
# Asks for a TPU as a queued resource, unless it is asked for already, and waits until it is there:
#
#   bash launch/tpu_create.sh [--dry-run]
#
# Names and sizes are in launch/tpu.env. `gcloud compute tpus queued-resources delete NAME --force` gives it back.
set -euo pipefail
# shellcheck source=launch/tpu.env
. "$(dirname "$0")/tpu.env"

if [ "$(state)" = NONE ]; then
  size=(--node-id="$NAME")
  if [ "$SLICES" -gt 1 ]; then size=(--node-count="$SLICES" --node-prefix="$NAME"); fi
  if [ "$SPOT" = yes ]; then size+=(--spot); fi
  run gcloud compute tpus queued-resources create "$NAME" "${where[@]}" \
    --accelerator-type="$TYPE" --runtime-version="$RUNTIME" "${size[@]}"
fi

# A question that fails is asked again: the place in the queue stays.
while [ ! "$dry" ]; do
  state=$(state)
  echo "$(date +%T) $NAME: $state"
  case $state in
    ACTIVE) break ;;
    FAILED | SUSPENDED) echo "tpu_create: $NAME is $state; delete it and ask again" >&2; exit 1 ;;
  esac
  sleep 30
done
