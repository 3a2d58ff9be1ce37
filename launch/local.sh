#!/usr/bin/env bash
# Trains all stages of the tiny preset on this machine and evaluates the model:
#   bash launch/local.sh [DIR]
# When started again, it resumes. PYTHON is an interpreter that has the package; without it, the
# script creates one in .venv.
set -euo pipefail
dir=${1:+$(realpath -m "$1")}
cd "$(dirname "$0")/.."
dir=${dir:-runs/local}

python=${PYTHON:-.venv/bin/python}
if [[ -z ${PYTHON:-} && ! -x $python ]]; then
  python3 -m venv .venv
  "$python" -m pip install -q -e .
fi

train() { "$python" -m vxlpro_jax.train --config="configs/$1.py" --workdir="$dir/$1" "${@:2}"; }
train stage1
# Half the steps of a run of stage 2 alone, and no decay, because stage 3 trains on the same
# questions.
train stage2 --config.init_from="$dir/stage1" --config.total_steps=700 \
  --config.optim.weight_decay=0
train stage3 --config.init_from="$dir/stage2"
train stage3_long --config.init_from="$dir/stage3"
"$python" -m vxlpro_jax.evaluate --checkpoint "$dir/stage3_long" --benchmark embedded \
  --keep_ratio 1.0 --out "$dir/embedded"
"$python" -m vxlpro_jax.needle --checkpoint "$dir/stage3_long" --mode clips \
  --keep_ratio 1.0 --out "$dir/needles"
"$python" -m vxlpro_jax.needle --checkpoint "$dir/stage3_long" --mode mcq --out "$dir/haystack" \
  --frames 64,256,1024 --keep_ratio 0.5,1 --max_context 8192

"$python" - "$dir" <<'END'
import json, pathlib, sys

folder = pathlib.Path(sys.argv[1])
read = lambda name: json.loads((folder / name).read_text())
results = read("embedded/results.json")
results["needles"] = read("needles/results.json")
results["recot"] = read("stage1/recot.json")
results["haystack"] = read("haystack/results.json")
partial = folder / "results.json.tmp"
partial.write_text(json.dumps(results, indent=2))
partial.replace(folder / "results.json")
END
echo "$dir holds results.json, embedded/results.md, haystack/needle.png and */curves.png."
