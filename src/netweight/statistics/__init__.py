"""Statistics that merge: moments, order statistics, patterns, pairs, channels, spectra, clusters."""
