"""`python -m netweight` is the program `netweight`."""

from __future__ import annotations

from netweight.cli.main import main

if __name__ == "__main__":
    main()
