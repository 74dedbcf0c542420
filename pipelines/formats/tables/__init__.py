"""Tables that say which images there are: CSV, TSV, JSON Lines and Parquet."""
