"""The bytes of one image file: markers, damage, orientation, depth."""
