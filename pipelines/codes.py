"""The operations on pixels that a plan may ask for beyond crop and mirror, as numbers.

Kernels are compiled with these numbers, and plans that were drawn are described by them. A value
means what torchvision's functional of that name takes.
"""

from __future__ import annotations

#: An image stays as it is.
NOTHING = 0
#: Upside down.
FLIP_DOWN = 1
#: Each output pixel is taken from elsewhere, bilinearly, and is black where that lies outside.
#: Values: the tangent of the angle; px; degrees, against the clock.
SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE = 2, 3, 4, 5, 6
#: A blend of the image with black, its mean grey, its grey, its blur; value: the image's part.
BRIGHTNESS, CONTRAST, SATURATION, SHARPNESS = 7, 8, 9, 10
#: Value: a turn of the colour circle, -0.5 to 0.5.
HUE = 11
GRAY = 12
#: Values: bits that stay; the level from which on a value is inverted.
POSTERIZE, SOLARIZE = 13, 14
AUTO_CONTRAST, EQUALIZE = 15, 16
#: A rectangle becomes the colour ERASED; see `augment.Operations.boxes`.
ERASE = 17

#: Those that move pixels by a matrix.
GEOMETRIC = (SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE)

#: Their names, for people.
NAMES = {
    FLIP_DOWN: "upside down",
    SHEAR_X: "shear x",
    SHEAR_Y: "shear y",
    TRANSLATE_X: "translate x",
    TRANSLATE_Y: "translate y",
    ROTATE: "rotate",
    BRIGHTNESS: "brightness",
    CONTRAST: "contrast",
    SATURATION: "saturation",
    SHARPNESS: "sharpness",
    HUE: "hue",
    GRAY: "gray",
    POSTERIZE: "posterize",
    SOLARIZE: "solarize",
    AUTO_CONTRAST: "autocontrast",
    EQUALIZE: "equalize",
    ERASE: "erase",
}
#: ImageNet's mean colour, RGB, which is 0 once normalized by it: what ERASE leaves, whatever the
#: model's mean is, as kernels are compiled with it.
ERASED = (124, 116, 104)
