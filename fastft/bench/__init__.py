"""Speed of a data set's loaders and of each stage on this machine."""
