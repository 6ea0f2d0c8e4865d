#!/bin/sh
# An environment of its own for WeightWatcher, beside this file: it pins other versions than netweight needs, and the
# comparison should not depend on what netweight installs. PYTHON chooses the interpreter (default python3).
set -eu
cd "$(dirname "$0")"
"${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip --disable-pip-version-check install --quiet -r requirements.txt
.venv/bin/python -c 'import importlib.metadata as m; print("weightwatcher", m.version("weightwatcher"), "torch", m.version("torch"))'
