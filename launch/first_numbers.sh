#!/usr/bin/env bash
# What one GPU does with this, in one table:
#
#   bash launch/first_numbers.sh [FOLDER]      by default runs/first_numbers
#
# The doctor; thirty steps of ViT-S/16 and ViT-B/16 on random data, and their memory beside what plan says; ViT-B/16 and
# torch.compile by turns, where PyTorch is installed; a run that reads shards, is ended, and resumes. All numbers go to
# FOLDER/first_numbers.json. No part takes more than 150 s. Without a GPU the models are tiny: that shows that all of it
# works, and says nothing of speed.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-runs/first_numbers}
python=${PYTHON:-.venv/bin/python}
"$python" -c 'import jax, tvts_jax' || { echo "launch/first_numbers.sh: $python lacks our packages; run bash launch/local.sh test first, or set PYTHON" >&2; exit 1; }
[ ! -e "$out" ] || { echo "launch/first_numbers.sh: $out is there already; give another folder, or remove it" >&2; exit 1; }
mkdir -p "$out"
# PyTorch must find memory left.
export XLA_PYTHON_CLIENT_PREALLOCATE=false

chip=$("$python" -m tvts_jax.bench.first_numbers --chip)
small=(--config=configs/pretrain.py:size=S/16 --config.input.batch=128)
large=(--config=configs/pretrain.py:size=B/16 --config.input.batch=128)
steps=30 turn=5 compiled=--torch_compile limit=150
if [ -z "$chip" ]; then
  small=(--config=configs/pretrain.py:size=tiny --config.input.batch=2 --config.model.text.n_layers=1)
  large=("${small[@]}" --config.model.dtype=float32)
  steps=3 turn=1 compiled=--notorch_compile limit=600
fi

# What fails is told in the table; the others go on.
part() {
  local name=$1; shift
  echo "\$ python -m $*" >&2
  timeout "$limit" "$python" -m "$@" > "$out/$name.log" 2>&1 || { echo "  ended with $?:" >&2; tail -n 3 "$out/$name.log" >&2; }
}

part doctor tvts_jax.doctor
part step_small tvts_jax.bench.step "${small[@]}" "--steps=$steps" "--out=$out/step_small.json"
part step_large tvts_jax.bench.step "${large[@]}" "--steps=$steps" "--out=$out/step_large.json"
part torch tvts_jax.bench.step "${large[@]}" --against=torch "$compiled" "--steps=$turn" "--out=$out/torch.json"
if [ -n "$chip" ]; then
  part plan_small tvts_jax.plan "${small[@]}" "--topology=$chip:1" "--out=$out/plan_small.json"
  part plan_large tvts_jax.plan "${large[@]}" "--topology=$chip:1" "--out=$out/plan_large.json"
fi

# Two runs of one work directory: the second begins where the first has saved.
part world data.world --out "$out/world" --clips 384 --val 128 --probe-train 0 --probe-test 0
part shards data.build "$out/world/index.jsonl" --out "$out/shards" \
  --window-s 12 --seconds 2 --fps 1.5 --short-side 32 --min-words 1
part vocabulary data.vocab "$out/shards" --out "$out/text" --size 256
for steps in 100 200; do
  part "run_$steps" tvts_jax.main --config="configs/demo.py:root=$out" --workdir="$out/run" --config.init.text= \
    "--config.steps=$steps" --resume_with_changes=steps
done

"$python" -m tvts_jax.bench.first_numbers "$out"
