#!/usr/bin/env bash
# Runs a config in several processes on the CPU of this machine, as on several
# hosts: for trying out what needs them; see launch/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
. launch/common.sh

need CONFIG "a config, such as configs/digits.py"
PROCESSES=${PROCESSES:-2} DEVICES=${DEVICES:-1}
number PROCESSES
GRACE=${GRACE:-10}
number DEVICES
number GRACE
python=${PYTHON:-python}
workdir=${WORKDIR:-runs/$(name_of "$CONFIG")}
port=${PORT:-}
if [ -z "$port" ] && dry; then port=8476; fi
if [ -z "$port" ]; then
  port=$("$python" -c 'import socket; one = socket.create_server(("", 0))
print(one.getsockname()[1])')
fi

declare -A process=() # process id of the system -> number in the run
signal_all() {
  if [ "${#process[@]}" -gt 0 ]; then
    kill "-$1" "${!process[@]}" 2>/dev/null || true
  fi
}
trap 'signal_all TERM' TERM INT
timer=
trap 'signal_all KILL; kill $timer 2>/dev/null || true' EXIT

run mkdir -p "$workdir"
for ((number = 0; number < PROCESSES; number++)); do
  command=(env JAX_PLATFORMS=cpu "JAX_NUM_CPU_DEVICES=$DEVICES"
    "$python" -m kdcl_jax.main "--config=$CONFIG" "--workdir=$workdir"
    "--coordinator=127.0.0.1:$port" "--num_processes=$PROCESSES"
    "--process_id=$number" "${arguments[@]}")
  printf '+ %s\n' "$(quoted "${command[@]}")"
  if dry; then continue; fi
  if [ "$number" = 0 ]; then
    "${command[@]}" &
  else
    "${command[@]}" >"$workdir/process_$number.log" 2>&1 &
  fi
  process[$!]=$number
done

code=0
while [ "${#process[@]}" -gt 0 ]; do
  status=0 ended=
  # shellcheck disable=SC2086 # no timer is no word
  wait -n -p ended "${!process[@]}" $timer || status=$?
  if [ -z "${ended:-}" ]; then continue; fi # it was a signal
  if [ "$ended" = "$timer" ]; then
    timer=
    signal_all KILL
    continue
  fi
  number=${process[$ended]}
  unset "process[$ended]"
  if [ "$status" = 0 ] || [ "$code" != 0 ]; then continue; fi
  code=$status
  say "process $number ended with exit code $status; ending the others."
  if [ "$number" != 0 ]; then
    tail -n 5 "$workdir/process_$number.log" >&2
  fi
  signal_all TERM
  # They may hang where they wait for the one that has ended.
  sleep "$GRACE" &
  timer=$!
done
exit "$code"
