#!/usr/bin/env bash
# Converts TFRecord shards of tf.train.Example to ArrayRecord shards, which training reads:
#   bash launch/ingest.sh --out=DIR 's3://bucket/train-*.tfrecord' 'https://host/more-{000..099}.tfrecord'
# When started again, it resumes. It runs in its own virtual environment, .venv-ingest or VENV, which
# the first start creates with PYTHON, or else with a suitable python3, python3.12 or python3.11.
# Set S3_ENDPOINT=http://HOST:PORT for an S3 server other than Amazon's.
set -euo pipefail
root=$(realpath "$(dirname "$0")/..")
venv=${VENV:-$root/.venv-ingest}
wanted=$root/launch/ingest-requirements.txt

fits() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; }

# A copy of the requirements shows that all of them are installed.
if ! cmp -s "$wanted" "$venv/installed.txt"; then
  candidates=(python3 python3.12 python3.11)
  [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
  python=
  for candidate in "${candidates[@]}"; do
    if fits "$candidate"; then python=$candidate && break; fi
  done
  if [[ -z $python ]]; then
    echo "error: TensorFlow 2.16 needs Python 3.11 or 3.12: set PYTHON to one." >&2
    exit 2
  fi
  echo "Setting up $venv once (about 1.5 GB)." >&2
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install -q --no-compile -r "$wanted"
  # Compiles the modules that are used; the script ends here if they cannot be loaded.
  env -u PYTHONDONTWRITEBYTECODE TF_CPP_MIN_LOG_LEVEL=2 "$venv/bin/python" -c \
    'import array_record, tensorflow, tensorflow_io; tensorflow.data.TFRecordDataset([])'
  cp "$wanted" "$venv/installed.txt"
fi
PYTHONPATH=$root exec "$venv/bin/python" -m vxlpro_jax.data.ingest "$@"
