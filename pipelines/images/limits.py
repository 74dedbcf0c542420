"""Limits of an image's size: to be stored, to be decoded, to be read at all."""

#: Width and height are 16-bit numbers.
MAX_SIDE_PX = 65535
#: An image of more pixels is left out unless `convert --max-pixels` admits it: where Pillow refuses
#: to decode, fearing a decompression bomb.
MAX_PIXELS = 2 * 89_478_485
#: No image has more, whatever is asked for: 800 MB, decoded. Phones make photos of 200 megapixels.
MOST_PIXELS = 1 << 28
#: A larger image file is not read: that many pixels as uncompressed 16-bit RGBA.
MAX_FILE_BYTES = MAX_PIXELS * 8
