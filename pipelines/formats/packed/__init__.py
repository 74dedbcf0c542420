"""Data sets as other libraries pack them: WebDataset's tars, Hugging Face's Arrow and Parquet."""
