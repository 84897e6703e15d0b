"""What is asked of a fit: one verb per file, free functions of a `Fit`."""
