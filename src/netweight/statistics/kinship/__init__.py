"""Whether two sets of weights have one start: tests of independence, matching, kernel alignment, mixtures."""
