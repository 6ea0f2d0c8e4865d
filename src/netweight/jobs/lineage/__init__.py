"""Which models descend from which, with evidence."""
