#!/usr/bin/env bash
# The first ten minutes on a machine with a GPU: see first_minutes.py. From any folder, nothing installed
# but JAX with CUDA, flax, optax, chex, scipy, scikit-learn and, as the yardstick, PyTorch:
#
#   benchmarks/first_minutes.sh [--scale smoke|full] [--out DIR] [--minutes 9] [--only alive,steps]
#
# PYTHON names the interpreter, if it is not python3.
set -eu
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m benchmarks.first_minutes "$@"
