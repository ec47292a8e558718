"""HKAFER, HDF and their parts."""
