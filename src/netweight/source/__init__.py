"""Floor 5: bytes of files by position."""
