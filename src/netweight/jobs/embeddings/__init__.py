"""`embeddings`: the token embedding in clusters, and rows that look untrained."""
