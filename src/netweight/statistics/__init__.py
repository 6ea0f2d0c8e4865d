"""Floor 5: mergeable statistics over blocks."""
