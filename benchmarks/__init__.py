"""Programs that measure Secateur from the outside, and the demo. Each is a make target."""
