"""Passes over the weights: tensors are streamed once, and statistics come back or blocks are written."""
