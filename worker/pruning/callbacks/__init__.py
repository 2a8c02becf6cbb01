"""Callbacks that put the pruner into the training loops of others; each needs the package in its name."""
