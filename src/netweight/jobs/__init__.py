"""What a user asks for, and the Python API: one package per job, with its plan, its run and its result."""
