"""From any listed samples to `.beton` files."""
