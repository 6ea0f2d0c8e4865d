"""Floor 1: import paths that scripts written for other programs use, for what netweight has under its own."""
