#!/usr/bin/env bash
# Runs a config on a GPU host and fetches the report; see launch/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${HOST:?set HOST to the ssh name of the GPU host}"
: "${CONFIG:?set CONFIG to a config, such as configs/digits.py}"
: "${EXTRA:=cuda}"
name=$(basename "$CONFIG" | sed 's/[.]py:/_/; s/[.]py$//')
workdir=${WORKDIR:-runs/$name}
read -r -a args <<<"${ARGS:-}"

run() {
  printf '+ %q' "$1"
  printf ' %q' "${@:2}"
  printf '\n'
  if [ "${DRY_RUN:-0}" != 1 ]; then "$@"; fi
}

archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
run git archive --output="$archive" --format=tar HEAD
run ssh "$HOST" "mkdir -p kdcl_jax_run"
run scp "$archive" "$HOST:kdcl_jax_run/source.tar"
command="cd kdcl_jax_run && tar -xf source.tar && python3 -m venv .venv"
command+=" && . .venv/bin/activate && pip install -q -e '.[$EXTRA]'"
command+=" && python -m kdcl_jax.main --config=$(printf '%q' "$CONFIG")"
command+=" --workdir=$(printf '%q' "runs/$name")"
for argument in "${args[@]}"; do command+=" $(printf '%q' "$argument")"; done
run ssh "$HOST" "$command"
run mkdir -p "$workdir"
run scp -r "$HOST:kdcl_jax_run/runs/$name/{report.html,results.json,export}" "$workdir"
