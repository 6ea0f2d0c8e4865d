#!/bin/sh
# An environment of its own for modelDNA, beside this file: nothing of it belongs in the environment of netweight.
# PYTHON chooses the interpreter (default python3).
set -eu
cd "$(dirname "$0")"
"${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip --disable-pip-version-check install --quiet -r requirements.txt
.venv/bin/python -I -c 'import importlib.metadata as m; print("modeldna", m.version("modeldna"), "numpy", m.version("numpy"))'
