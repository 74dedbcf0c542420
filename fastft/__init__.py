"""fastft: fine-tune image classifiers with the input path out of the way."""

__version__ = "0.1.0"
