"""Models of transformers. Nothing here is found by a scan: importing transformers takes over a second."""
