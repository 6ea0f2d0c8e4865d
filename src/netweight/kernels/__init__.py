"""The hot loops behind one protocol: numba, LAPACK and ARPACK on the CPU, torch on GPUs."""
