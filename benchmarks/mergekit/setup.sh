#!/bin/sh
# An environment of its own for mergekit, beside this file: it needs transformers and torch, which netweight does not,
# and the comparison should not depend on what netweight installs. PYTHON chooses the interpreter (default python3).
set -eu
cd "$(dirname "$0")"
"${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip --disable-pip-version-check install --quiet -r requirements.txt
.venv/bin/python -c 'import importlib.metadata as m; print(*(f"{name} {m.version(name)}" for name in ("mergekit", "torch", "transformers")))'
