"""A look at data before training: copies, leaks, broken and odd images, classes."""
