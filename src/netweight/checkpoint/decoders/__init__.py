"""Quantised weights as what they stand for: a file for each family of formats, and a row in `decoded.py`."""
