"""Find and align faces."""
