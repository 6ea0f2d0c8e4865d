"""One file's bytes by position: local, held in memory, or far away by ranges with retries."""
