#!/usr/bin/env bash
# Runs a config on a GPU host and fetches the report; see launch/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
. launch/common.sh

need HOST "the ssh name of the GPU host"
need CONFIG "a config, such as configs/digits.py"
name=$(name_of "$CONFIG")
workdir=${WORKDIR:-runs/$name}
folder=kdcl_jax_run
connect=(ssh -o ServerAliveInterval=30 "$HOST")

archive=$(mktemp -d)
trap 'rm -rf "$archive"' EXIT
run git archive --output="$archive/source.tar" --format=tar HEAD
run "${connect[@]}" "mkdir -p $folder"
run scp -q "$archive/source.tar" "$HOST:$folder/source.tar"
command="cd $folder && if flock -n run.lock true; then tar -xf source.tar; fi"
command+=" && bash launch/remote.sh $(quoted "${EXTRA:-cuda}" \
  "${RUNS:-runs}/$name" "$CONFIG" "${arguments[@]}")"
code=0
run "${connect[@]}" "$command" || code=$?
case $code in
  0) ;;
  255) say "the connection is lost; run this again to follow the run." ;;
  75) say "the run was interrupted and has saved; run this again to go on." ;;
  *) say "the run ended with exit code $code; its log is above." ;;
esac
if [ "$code" != 0 ]; then exit "$code"; fi
run scp -q "$HOST:$folder/report.tar.gz" "$archive/report.tar.gz"
run mkdir -p "$workdir"
run tar -C "$workdir" -xzf "$archive/report.tar.gz"
say "the report is $workdir/report.html."
