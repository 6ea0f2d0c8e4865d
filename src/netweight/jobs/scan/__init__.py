"""`scan`: statistics, spectra, quantization risk and sparsity of every matrix."""
