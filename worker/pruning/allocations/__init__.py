"""Allocations: how much of each layer goes? One file each, found by a scan."""
