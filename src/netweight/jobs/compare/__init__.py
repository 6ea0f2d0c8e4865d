"""`compare`: what differs between two models."""
