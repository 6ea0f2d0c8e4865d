"""Passes over the weights: tensors are streamed once, statistics come back, or blocks are written."""
