"""Shards to trained, evaluated and tracked models."""
