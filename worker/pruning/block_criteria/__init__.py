"""Criteria of whole blocks: one file each, found by a scan."""
