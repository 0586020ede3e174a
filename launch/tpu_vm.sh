#!/usr/bin/env bash
# Runs a config on a Cloud TPU VM, of one host or of many: creates it, installs,
# runs on all workers, fetches the report, deletes it; see launch/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
. launch/common.sh

need NAME "a name for the TPU VM"
need ZONE "a zone, such as us-central2-b"
need CONFIG "a config, such as configs/digits.py"
TRIES=${TRIES:-100} PAUSE=${PAUSE:-60}
number TRIES
number PAUSE
title=$(name_of "$CONFIG")
workdir=${WORKDIR:-runs/$title}
folder=kdcl_jax_run
tpu=(gcloud compute tpus tpu-vm)
there=(--zone="$ZONE")

create=("${tpu[@]}" create "$NAME" "${there[@]}"
  --accelerator-type="${ACCELERATOR:-v4-8}"
  --version="${VERSION:-tpu-ubuntu2204-base}")
remote=(env) runs=runs
if [ "${SPOT:-1}" = 1 ]; then create+=(--spot); fi
if [ -n "${BUCKET:-}" ] && [ -n "${DISK:-}" ]; then
  refuse "BUCKET and DISK are both set; expected one of them."
elif [ -n "${BUCKET:-}" ]; then
  remote+=("BUCKET=$BUCKET") runs=bucket/runs
  create+=(--scopes=https://www.googleapis.com/auth/cloud-platform)
elif [ -n "${DISK:-}" ]; then
  need PROJECT "the project of the disk $DISK"
  remote+=("DISK=${DEVICE:-/dev/sdb}") runs=disk/runs
  disk=projects/$PROJECT/zones/$ZONE/disks/$DISK
  create+=(--data-disk="source=$disk,mode=read-write")
fi
remote+=(bash launch/remote.sh tpu "$runs/$title" "$CONFIG" "${arguments[@]}")
command="mkdir -p $folder && cd $folder"
command+=" && if flock -n run.lock true; then tar -xf ../source.tar; fi"
command+=" && $(quoted "${remote[@]}")"

if [ "${SPOT:-1}" = 1 ] && [ "$runs" = runs ]; then
  say "neither BUCKET nor DISK is set: should $NAME be preempted, the run begins anew."
fi
archive=$(mktemp -d)
trap 'rm -rf "$archive"' EXIT
run git archive --output="$archive/source.tar" --format=tar HEAD

# known FIELD: what is known of the TPU VM, nothing where there is none.
known() {
  if dry; then return; fi
  "${tpu[@]}" describe "$NAME" "${there[@]}" --format="value($1)" 2>/dev/null ||
    true
}

delete() { run "${tpu[@]}" delete "$NAME" "${there[@]}" --quiet; }

# attempt: one go at the run; returns its exit code, or 75 to try again.
attempt() {
  local state code=0
  state=$(known state)
  case $state in
    READY) ;;
    CREATING | STARTING | RESTARTING | REIMAGING | REPAIRING) return 75 ;;
    *) # none, PREEMPTED, TERMINATED, STOPPED, ...
      if [ -n "$state" ]; then delete || return 75; fi
      run "${create[@]}" || return 75
      ;;
  esac
  if [ -z "${BUCKET:-}" ] && [[ $(known "networkEndpoints.len()") =~ ^[2-9]|.. ]]; then
    say "$NAME has several hosts, which need a working directory that all of them see; set BUCKET to a Cloud Storage bucket."
    return 2
  fi
  run "${tpu[@]}" scp "$archive/source.tar" "$NAME:source.tar" "${there[@]}" \
    --worker=all || return 75
  run "${tpu[@]}" ssh "$NAME" "${there[@]}" --worker=all \
    --command="$command" || code=$?
  case $code in
    0 | 2) return "$code" ;;
    134 | 137 | 143 | 255) return 75 ;; # a process was lost, or the connection
  esac
  if [ "$(known state)" != READY ]; then return 75; fi
  return "$code"
}

for ((try = 1; try <= TRIES; try++)); do
  code=0
  attempt || code=$?
  if [ "$code" != 75 ]; then break; fi
  say "attempt $try of $TRIES was interrupted; trying again in $PAUSE s."
  sleep "$PAUSE"
done
if [ "$code" = 0 ]; then
  run "${tpu[@]}" scp "$NAME:$folder/report.tar.gz" "$archive/report.tar.gz" \
    "${there[@]}" --worker=0
  run mkdir -p "$workdir"
  run tar -C "$workdir" -xzf "$archive/report.tar.gz"
  say "the report is $workdir/report.html."
else
  say "the run ended with exit code $code; its log is above."
fi
if [ "${KEEP:-0}" = 1 ] || { [ "$code" != 0 ] && [ "$runs" = runs ]; }; then
  say "$NAME is kept and costs money; delete it by: $(quoted "${tpu[@]}" \
    delete "$NAME" "${there[@]}")"
else
  delete
fi
exit "$code"
