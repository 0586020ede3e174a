#!/usr/bin/env bash
# Creates a TPU VM of one host, runs a config on it, fetches the report, deletes
# it; see launch/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${NAME:?set NAME to a name for the TPU VM}"
: "${ZONE:?set ZONE, such as us-central2-b}"
: "${CONFIG:?set CONFIG to a config, such as configs/digits.py}"
accelerator=${ACCELERATOR:-v4-8}
version=${VERSION:-tpu-ubuntu2204-base}
name=$(basename "$CONFIG" | sed 's/[.]py:/_/; s/[.]py$//')
workdir=${WORKDIR:-runs/$name}
read -r -a args <<<"${ARGS:-}"
tpu=(gcloud compute tpus tpu-vm)

run() {
  printf '+ %q' "$1"
  printf ' %q' "${@:2}"
  printf '\n'
  if [ "${DRY_RUN:-0}" != 1 ]; then "$@"; fi
}

archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
spot=()
if [ "${SPOT:-0}" = 1 ]; then spot=(--spot); fi
if [ "${DRY_RUN:-0}" = 1 ] ||
  ! "${tpu[@]}" describe "$NAME" --zone="$ZONE" >/dev/null 2>&1; then
  run "${tpu[@]}" create "$NAME" --zone="$ZONE" "${spot[@]}" \
    --accelerator-type="$accelerator" --version="$version"
fi
run git archive --output="$archive" --format=tar HEAD
run "${tpu[@]}" scp "$archive" "$NAME:source.tar" --zone="$ZONE"
command="mkdir -p kdcl_jax_run && cd kdcl_jax_run && tar -xf ../source.tar"
command+=" && python3 -m venv .venv && . .venv/bin/activate"
command+=" && pip install -q -e '.[tpu]'"
command+=" && python -m kdcl_jax.main --config=$(printf '%q' "$CONFIG")"
command+=" --workdir=$(printf '%q' "runs/$name")"
for argument in "${args[@]}"; do command+=" $(printf '%q' "$argument")"; done
run "${tpu[@]}" ssh "$NAME" --zone="$ZONE" --command="$command"
run mkdir -p "$workdir"
for file in report.html results.json export; do
  run "${tpu[@]}" scp --recurse "$NAME:kdcl_jax_run/runs/$name/$file" \
    "$workdir" --zone="$ZONE"
done
if [ "${KEEP:-0}" != 1 ]; then
  run "${tpu[@]}" delete "$NAME" --zone="$ZONE" --quiet
fi
