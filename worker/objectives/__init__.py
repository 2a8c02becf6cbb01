"""Objectives: what a task trains for and what it records of a sample. One file each, found by a scan."""
