"""The kinds of tensors: as a file stores them, and rearranged from others."""
