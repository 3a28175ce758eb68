#!/bin/sh
# Parity of all families, invariances and ratios on a device, in under eight minutes, without a network.
#
#   benchmarks/on_device.sh                     on CUDA
#   benchmarks/on_device.sh --device cpu ...    elsewhere; options as of benchmarks/on_device.py
#
# PYTHON  the Python to use; default: .venv/bin/python where there is one, else python3.
# WHEELS  a folder of wheels: what is missing is installed from there, and from nowhere else, into TARGET.
# TARGET  where to install; default: a folder beside the wheels.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
if [ -n "${WHEELS:-}" ]; then
    TARGET=${TARGET:-$WHEELS/installed}
    [ -d "$TARGET" ] || "$PYTHON" -m pip install -q --no-index --no-deps --target "$TARGET" "$WHEELS"/*.whl
    PYTHONPATH=$TARGET${PYTHONPATH:+:$PYTHONPATH}
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec timeout 480 "$PYTHON" -m benchmarks.on_device "$@"
