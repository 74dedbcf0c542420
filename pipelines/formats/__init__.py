"""Places of samples: class folders, archives, RecordIO and `.beton` files."""
