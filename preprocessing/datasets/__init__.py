"""Readers: one file a data set, tree on disk to sample table."""
