#!/usr/bin/env bash
# Requests a Cloud TPU, waits for it, runs a command of the package on all its workers, starts again
# after each preemption, and always deletes the TPU at the end:
#   bash launch/tpu_queued_resource.sh --name=NAME --zone=ZONE --type=v5p-128 \
#     --runtime=v2-alpha-tpuv5 --image=IMAGE --share=SERVER:/PATH [--slices=N] [--spot] [--dry_run] \
#     -- -m vxlpro_jax.train --config=FILE --workdir=/mnt/runs/DIR
# IMAGE is built from launch/Dockerfile. SERVER:/PATH is an NFS share (Filestore), which is mounted as
# /mnt/runs on every worker, so that a restarted run resumes there. --slices=N requests N slices of that
# type; the command then also needs --config.mesh.num_slices=N. --dry_run only prints the commands. The
# exit code is that of the training.
set -euo pipefail

usage() {
  echo "error: $1" >&2
  sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p}' "$0" >&2
  exit 2
}

options=()
slices=1
while [[ $# -gt 0 && $1 != -- ]]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --share=*) share=${1#*=} ;;
    --slices=*) slices=${1#*=} ;;
    --spot) options+=(--spot) ;;
    --dry_run) dry_run=yes ;;
    *) usage "$1 is not known." ;;
  esac
  shift
done
for needed in name zone type runtime image share; do
  [[ -n ${!needed:-} ]] || usage "--$needed is missing."
done
[[ $slices =~ ^[1-9][0-9]*$ ]] || usage "--slices=$slices is not a positive number."
[[ $# -gt 1 ]] || usage "Give the command to run after --."
shift
command=$(printf '%q ' "$@")

tpus() { # Prints the command, or runs it.
  if [[ -n ${dry_run:-} ]]; then
    printf '%q ' gcloud compute tpus "$@"
    echo
  else
    gcloud compute tpus "$@"
  fi
}
resources() { tpus queued-resources "$1" "$name" --zone="$zone" "${@:2}"; }
on_all() { resources ssh --node=all --worker=all --command="$1"; }

state() { gcloud compute tpus queued-resources describe "$name" --zone="$zone" \
  --format='value(state.state)'; }

create() {
  local nodes=(--node-id="$name")
  [[ $slices == 1 ]] || nodes=(--node-count="$slices" --node-prefix="$name")
  resources create "${nodes[@]}" --accelerator-type="$type" --runtime-version="$runtime" \
    "${options[@]}"
  created=yes
  if [[ -n ${dry_run:-} ]]; then
    resources describe --format='value(state.state)'
    return
  fi
  local now
  while true; do
    now=$(state)
    case $now in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED) echo "error: $name is $now." >&2; exit 1 ;;
    esac
    echo "$(date +%T) $name is $now"
    sleep 30
  done
}
delete() {
  [[ -n ${created:-} ]] || return 0
  created=
  resources delete --force --quiet
}
trap delete EXIT

prepare() {
  on_all "sudo apt-get update -qq && sudo apt-get install -qq nfs-common &&
    sudo mkdir -p /mnt/runs && { mountpoint -q /mnt/runs || sudo mount -t nfs $share /mnt/runs; } &&
    sudo gcloud auth configure-docker ${image%%/*} --quiet && sudo docker pull --quiet $image"
}

# The next two functions run on each worker. They print docker options with its rank, the number of
# workers and the coordinator's address, from the metadata server of its machine, as JAX does. Hosts are
# listed in order, as `name` or `name:number:address`; `tpu-env` has a line per MEGASCALE variable.
attribute() {
  curl --silent --show-error --fail --noproxy "*" --retry 5 --retry-connrefused \
    --header "Metadata-Flavor: Google" \
    "http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance/attributes/$1" ||
    { echo "error: the metadata server of $HOSTNAME has no $1." >&2; return 1; }
}
process() {
  local slices=$1 hosts index first slice
  hosts=$(attribute worker-network-endpoints) && index=$(attribute agent-worker-number) || return 1
  IFS=, read -ra hosts <<<"$hosts"
  first=${hosts[0]##*:}
  if [[ $slices -gt 1 ]]; then
    slice=$(attribute tpu-env) || return 1
    first=$(sed -n "s/^ *MEGASCALE_COORDINATOR_ADDRESS: *'\?\([^':]*\).*/\1/p" <<<"$slice")
    slice=$(sed -n "s/^ *MEGASCALE_SLICE_ID: *'\?\([0-9]*\).*/\1/p" <<<"$slice")
    [[ -n $first && -n $slice ]] || { echo "error: by its metadata, $HOSTNAME is in no slice." >&2; return 1; }
    index=$((index + slice * ${#hosts[@]}))
  fi
  echo "--env=VXLPRO_COORDINATOR=$first:8482 --env=VXLPRO_PROCESS_ID=$index" \
    "--env=VXLPRO_NUM_PROCESSES=$((${#hosts[@]} * slices))"
}

run() { # Exit code of the training: 2 if any worker has it, else 75, else the largest.
  local log codes
  log=$(mktemp)
  # gcloud does not return the exit codes of several workers, so each worker prints its own.
  on_all "$(declare -f attribute process)
    process=\$(process $slices) &&
    sudo docker run --rm --privileged --network=host --stop-timeout=300 --volume=/mnt/runs:/mnt/runs \
      --env=VXLPRO_TIMEOUT=${VXLPRO_TIMEOUT:-600} \$process $image $command; echo exit code \$?" |
    tee "$log" || true
  codes=$(sed -n 's/.*exit code \([0-9]\+\)$/\1/p' "$log" | sort -n | uniq)
  rm "$log"
  [[ -z ${dry_run:-} ]] || return 0
  for first in 2 75; do
    grep -qx "$first" <<<"$codes" && return "$first"
  done
  return "$(tail -n 1 <<<"${codes:-1}")"
}

while true; do
  if [[ -z ${created:-} ]]; then
    create
    prepare
  fi
  code=0
  run "$@" || code=$?
  if [[ $code == 0 || $code == 2 ]]; then
    exit "$code"
  fi
  now=$(state)
  if [[ $now != ACTIVE ]]; then
    echo "$name was preempted: asking for another."
    delete
  elif [[ $code != 75 ]]; then
    exit "$code"
  fi
done
