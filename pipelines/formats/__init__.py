"""Where samples lie: class folders, archives, RecordIO and `.beton` files."""
