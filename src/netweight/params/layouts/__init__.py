"""The layouts of one model, as rows of data: names that mean the same, and tensors that hold several matrices."""
