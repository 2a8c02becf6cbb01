"""Structure checks of uploads, one file a format: pure Python, nothing in a file is ever executed."""
