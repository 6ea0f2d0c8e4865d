"""Machine code of all loops for processors of this machine's usual kind, as wheels carry it.

    python tools/prebuild.py

`make dist` runs it. It takes a minute on two cores, and leaves one folder in `src/netweight/kernels/cpu/prebuilt`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from netweight.kernels.cpu import prebuilt

_COMPILE = "from netweight.kernels.cpu import ahead; ahead.compile_ahead(ahead.every(), print)"


def main() -> None:
    """Compile for the target in a folder of its own, then give the files their names in the package."""
    found = prebuilt.target()
    if found is None:
        sys.exit("no wheel carries code for processors like this one: expected one of x86-64-v3, ARMv8 or Apple's")
    processor, name = found
    place = prebuilt.FOLDER / name
    shutil.rmtree(place, ignore_errors=True)
    with tempfile.TemporaryDirectory() as made:
        # the features are those that the processor's name says, none of this machine's beyond
        target = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": made}
        subprocess.run([sys.executable, "-P", "-c", _COMPILE], env={**os.environ, **target}, check=True)  # noqa: S603
        digest = prebuilt.digest_of(name)
        files = sorted(Path(made).glob("*.loop"))
        if not files:
            sys.exit("nothing was compiled: expected a file for each loop")
        place.mkdir(parents=True)
        for file in files:
            loop, _, rest = file.name.split("-", 2)
            shutil.copyfile(file, place / f"{loop}-{digest}-{rest}")
    print(f"{place}: {len(files)} loops, {sum(file.stat().st_size for file in place.iterdir())} bytes")


if __name__ == "__main__":
    main()
