"""Schedules: how much is pruned when? One file each, found by a scan."""
