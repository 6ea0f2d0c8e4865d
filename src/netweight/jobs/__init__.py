"""Floor 2: what a user asks for (delta, info, demo); the Python API."""
