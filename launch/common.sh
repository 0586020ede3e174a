# shellcheck shell=bash
# What the scripts of this folder share; they read it.

# refuse SENTENCE: ends the script for a mistake of the user's.
refuse() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
  exit 2
}

# say SENTENCE: tells what the script is at.
say() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
}

# need NAME WHAT: refuses to go on where the variable NAME is not set.
need() {
  if [ -z "${!1:-}" ]; then refuse "set $1 to $2."; fi
}

# number NAME: refuses to go on where the variable NAME is no number from 1.
number() {
  if ! [[ ${!1} =~ ^[1-9][0-9]*$ ]]; then
    refuse "$1 is '${!1}'; expected a whole number from 1."
  fi
}

# quoted WORD...: the words as another shell reads them.
quoted() {
  local line
  printf -v line ' %q' "$@"
  printf '%s' "${line:1}"
}

dry() { [ "${DRY_RUN:-0}" = 1 ]; }

# run COMMAND...: shows a command and executes it, the latter not in a dry run.
run() {
  printf '+ %s\n' "$(quoted "$@")"
  if ! dry; then "$@"; fi
}

# name_of CONFIG: what its run is called.
name_of() {
  basename "$1" | sed 's/[.]py:/_/; s/[.]py$//'
}

# Further arguments of the run: ARGS, split at spaces, and those of the script.
read -r -a arguments <<<"${ARGS:-}"
arguments+=("$@")
