"""Callbacks that put the pruner into training loops of others; each needs the package that it is named after."""
