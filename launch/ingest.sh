#!/usr/bin/env bash
# Turns TFRecord shards of tf.train.Example into ArrayRecord shards that training reads:
#   bash launch/ingest.sh --out=DIR 's3://bucket/train-*.tfrecord' 'https://host/more-{000..099}.tfrecord'
# Started again it continues. It runs in an environment of its own, .venv-ingest or what VENV names,
# made at the first start from PYTHON, or else from a python3, python3.12 or python3.11 that fits.
# S3_ENDPOINT=http://HOST:PORT names an S3 server other than Amazon's.
set -euo pipefail
root=$(realpath "$(dirname "$0")/..")
venv=${VENV:-$root/.venv-ingest}
wanted=$root/launch/ingest-requirements.txt

fits() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; }

# A copy of the requirements marks that all of them are installed.
if ! cmp -s "$wanted" "$venv/installed.txt"; then
  candidates=(python3 python3.12 python3.11)
  [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
  python=
  for candidate in "${candidates[@]}"; do
    if fits "$candidate"; then python=$candidate && break; fi
  done
  if [[ -z $python ]]; then
    echo "error: TensorFlow 2.16 needs Python 3.11 or 3.12: let PYTHON name one." >&2
    exit 2
  fi
  echo "Setting up $venv once (about 1.5 GB)." >&2
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install -q --no-compile -r "$wanted"
  # Compiles the small part that is used, and ends here if it cannot be loaded.
  env -u PYTHONDONTWRITEBYTECODE TF_CPP_MIN_LOG_LEVEL=2 "$venv/bin/python" -c \
    'import array_record, tensorflow, tensorflow_io; tensorflow.data.TFRecordDataset([])'
  cp "$wanted" "$venv/installed.txt"
fi
PYTHONPATH=$root exec "$venv/bin/python" -m vxlpro_jax.data.ingest "$@"
