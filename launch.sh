#!/usr/bin/env bash
# Runs `python -m experiments.launch` in an environment that it makes itself: .venv beside this
# file, from requirements.lock, made again when that file has changed.
#
#   ./launch.sh                    lists modes and experiments
#   PYTHON=python3.13              the interpreter to make the environment with (3.11 or newer)
#   DEEPLEARN_ACCELERATOR=cpu      cpu, cuda12, cuda13 or tpu, instead of what the machine shows
set -euo pipefail

say() { echo "launch.sh: $*" >&2; }
fail() { echo "error: $*" >&2; exit 2; }

script=${BASH_SOURCE[0]}
while [[ -L $script ]]; do
  link=$(readlink "$script")
  [[ $link == /* ]] || link=$(dirname "$script")/$link
  script=$link
done
root=$(cd "$(dirname "$script")" && pwd -P)
venv=$root/.venv
stamp=$venv/launch.stamp
lock=$(cksum <"$root/requirements.lock")

# Reads what the environment was made for; an interrupted set-up leaves no stamp.
read_stamp() {
  made_for=none made_from=none
  [[ ! -x $venv/bin/python || ! -f $stamp ]] || read -r made_for made_from <"$stamp"
}

choose_accelerator() {
  if [[ -n ${DEEPLEARN_ACCELERATOR:-} ]]; then
    [[ $DEEPLEARN_ACCELERATOR =~ ^(cpu|cuda12|cuda13|tpu)$ ]] ||
      fail "DEEPLEARN_ACCELERATOR=$DEEPLEARN_ACCELERATOR; choose one of: cpu, cuda12, cuda13, tpu"
    accelerator=$DEEPLEARN_ACCELERATOR
  elif [[ $made_for =~ ^(cuda|tpu) ]]; then accelerator=$made_for
  elif nvidia-smi -L >/dev/null 2>&1; then accelerator=cuda12
  elif [[ -n ${TPU_NAME:-}${TPU_ACCELERATOR_TYPE:-} || -e /dev/accel0 ]]; then accelerator=tpu
  else accelerator=cpu
  fi
}

# Prints the interpreter with its version in its name, so that an upgrade of python3 is noticed.
find_python() {
  local candidates=(python3 python3.13 python3.12 python3.11) candidate
  [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    "$candidate" -c 'import os, sys
assert sys.version_info >= (3, 11)
print(os.path.realpath(sys.executable))' 2>/dev/null && return
  done
  fail "no Python 3.11 or newer among: ${candidates[*]}; set PYTHON to one"
}

make_environment() {
  local python jax site pip=("$venv/bin/python" -m pip -qq --disable-pip-version-check)
  python=$(find_python)
  # The prompt is in the first file that venv writes: one without it is somebody else's.
  [[ ! -e $venv/pyvenv.cfg ]] || grep -q "^prompt = 'deeplearn'" "$venv/pyvenv.cfg" ||
    fail "$venv was not made by launch.sh; move it away and start again"
  say "making the environment in .venv for $accelerator with $python (takes minutes)"
  rm -f "$stamp"
  "$python" -m venv --clear --prompt deeplearn "$venv" >&2 ||
    fail "$python could not make $venv, see above; Debian and Ubuntu need: apt install python3-venv"
  "${pip[@]}" install --require-hashes -r "$root/requirements.lock" >&2 ||
    fail "pip could not install requirements.lock, see above; start again to try again"
  if [[ $accelerator != cpu ]]; then
    jax=$("$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("jax"))')
    "${pip[@]}" install "jax[$accelerator]==$jax" >&2 ||
      fail "pip could not install jax[$accelerator], see above; without: DEEPLEARN_ACCELERATOR=cpu"
  fi
  # Relative, so that the clone can be moved.
  for site in "$venv"/lib/python3*/site-packages; do echo ../../../.. >"$site/deeplearn.pth"; done
  echo "$accelerator $lock" >"$stamp"
}

is_current() {
  read_stamp
  choose_accelerator
  [[ "$made_for $made_from" == "$accelerator $lock" ]]
}

if ! is_current; then
  # Of two first uses at once, the second waits and finds the environment made.
  exec 9<"$root/launch.sh"
  if command -v flock >/dev/null; then flock 9 || true; fi
  is_current || make_environment
  exec 9<&-
fi

# XLA on CPU allocates its buffers anew at every step, and glibc gives large ones back to the system
# in between: 17,000 page faults and 12 % of the time of a ResNet step. One arena keeps them.
if [[ $accelerator == cpu ]]; then
  export MALLOC_ARENA_MAX=${MALLOC_ARENA_MAX:-1} MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_:-0}
  export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-1000000000000}
fi

# -P keeps the current directory, which may hold an `experiments` of its own, off the path.
exec "$venv/bin/python" -P -m experiments.launch "$@"
