#!/usr/bin/env bash
# Runs a config on the machine that this is started on, by gpu.sh or tpu_vm.sh:
#   remote.sh EXTRA WORKDIR CONFIG [ARGUMENT...]
# It installs the project, starts the run so that it outlives the connection,
# shows its log, and ends with its exit code. Where the run is still going on, it
# only shows the log. What the run leaves for people goes into report.tar.gz.
# BUCKET: a Cloud Storage bucket to mount as ./bucket. DISK: a device, such as
# /dev/sdb, to mount as ./disk (and to format where it is empty).
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$#" -lt 3 ]; then
  echo "remote.sh: expected EXTRA WORKDIR CONFIG [ARGUMENT...]." >&2
  exit 2
fi
extra=$1 workdir=$2 config=$3
shift 3
# shellcheck source=launch/common.sh
. launch/common.sh

# shellcheck disable=SC2317,SC2329 # these two are called by `run`
install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc
  local site=https://packages.cloud.google.com/apt
  curl -fsS "$site/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $site gcsfuse-$(lsb_release -c -s) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get update -qq
  sudo apt-get install -y -qq gcsfuse
}

# shellcheck disable=SC2317,SC2329
make_venv() {
  if python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    python3 -m venv .venv
  else # such as on the images of TPU VMs
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --seed --python 3.12 .venv
  fi
}

if [ -n "${BUCKET:-}" ] && ! mountpoint -q bucket; then
  if ! command -v gcsfuse >/dev/null; then run install_gcsfuse; fi
  run mkdir -p bucket
  run gcsfuse --implicit-dirs "$BUCKET" bucket
fi
if [ -n "${DISK:-}" ] && ! mountpoint -q disk; then
  run mkdir -p disk
  if dry || ! sudo blkid "$DISK" >/dev/null; then run sudo mkfs.ext4 -q "$DISK"; fi
  run sudo mount -o discard,defaults "$DISK" disk
  run sudo chown "$(id -u)" disk
fi

command=(.venv/bin/python -m kdcl_jax.main "--config=$config"
  "--workdir=$workdir" --interrupted_code=75 "${arguments[@]}")
if dry; then
  run make_venv
  run .venv/bin/pip install --quiet -e ".[$extra]"
  run "${command[@]}"
  exit
fi

exec 9>run.lock
if flock -n 9; then
  if [ ! -e .venv/bin/pip ]; then run make_venv; fi
  run .venv/bin/pip install --quiet -e ".[$extra]"
  rm -f exit_code
  printf '+ %s\n' "$(quoted "${command[@]}")" >run.log
  # The run keeps the lock, by descriptor 9, until its last process has ended.
  # shellcheck disable=SC2016
  setsid --fork bash -c 'echo "$$" >run.pid; "$@"; echo "$?" >exit_code' _ "${command[@]}" \
    >>run.log 2>&1 </dev/null
else
  say "the run is going on; this is its log."
fi
exec 9>&-
tail -n +1 -f run.log &
flock run.lock true
sleep 1
kill "$!"
code=$(cat exit_code 2>/dev/null || echo 75) # none where the shell was ended
if [ "$code" = 0 ] && [ -e "$workdir/results.json" ]; then
  files=()
  for file in report.html report.md report results.json export; do
    if [ -e "$workdir/$file" ]; then files+=("$file"); fi
  done
  tar -C "$workdir" -czf report.tar.gz "${files[@]}"
fi
exit "$code"
