"""Physical removal: find what must be cut together, cut it out of the tensors, and check what is left."""
