#!/usr/bin/env bash
# Follows what the first host of the run says; Ctrl-C ends the following, not the run:
#
#   bash launch/tpu_logs.sh [--dry-run]
set -euo pipefail
# shellcheck source=launch/tpu.env
. "$(dirname "$0")/tpu.env"
on_first 'tail -n 100 -F tvts_jax/train.log'
