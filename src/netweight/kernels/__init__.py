"""Floor 6: the hot loops, behind one protocol."""
