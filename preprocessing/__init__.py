"""Raw facial-expression data sets to aligned Parquet shards."""
