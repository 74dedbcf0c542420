"""The network, its weights, its loss and its optimizer."""
