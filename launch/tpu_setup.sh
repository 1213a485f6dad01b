#!/usr/bin/env bash
# Puts this tree, as it is committed, on every host of the TPU and installs it there:
#
#   bash launch/tpu_setup.sh [--dry-run]
#
# Run it again after a commit: what is installed already stays.
set -euo pipefail
# shellcheck source=launch/tpu.env
. "$(dirname "$0")/tpu.env"
cd "$(dirname "$0")/.."

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
run git archive --format=tar.gz --output="$tree/tvts_jax.tar.gz" HEAD
for slice in $(seq 0 $((SLICES - 1))); do
  run gcloud compute tpus tpu-vm scp "$tree/tvts_jax.tar.gz" "$(node "$slice")": "${where[@]}" --worker=all
done
# The images of TPUs have an older Python than we need, so uv brings one along.
on_all 'mkdir -p tvts_jax && tar -xzf tvts_jax.tar.gz -C tvts_jax && cd tvts_jax &&
  if ! .venv/bin/python -c "import sys; sys.exit(sys.version_info < (3, 11))" 2> /dev/null; then
    { python3 -m pip --version > /dev/null || { sudo apt-get update -qq && sudo apt-get install -y -qq python3-pip; }; } &&
    python3 -m pip install --user --quiet uv && rm -rf .venv && python3 -m uv venv --quiet --seed --python 3.12 .venv; fi &&
  .venv/bin/python -m pip install --quiet -r requirements.txt -e ".[tpu]" &&
  .venv/bin/python -c "import jax; print(jax.__version__)"'
