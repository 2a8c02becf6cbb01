"""Criteria: how important is a weight? One file each, found by a scan."""
