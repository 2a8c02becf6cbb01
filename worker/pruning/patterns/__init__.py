"""Patterns: which weights live and die together? One file each, found by a scan."""
