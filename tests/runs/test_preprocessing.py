"""The form of a model's images, packed and read."""

import pytest

from fastft.runs.preprocessing import pack_preprocessing, read_preprocessing
from pipelines.preprocessing import IMAGENET, Preprocessing

FORM = Preprocessing(filter="bicubic", crop_share=0.95, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.25))


def test_usual_form_is_nothing_to_say():
    assert pack_preprocessing(IMAGENET) is None
    assert read_preprocessing(None) == IMAGENET


def test_packed_form_is_read_again():
    assert read_preprocessing(pack_preprocessing(FORM)) == FORM


@pytest.mark.parametrize(
    "wrong",
    [
        {"filter": "lanczos"},
        {"crop_share": "0.9"},
        {"crop_share": 2.0},
        {"mean": [0.5, 0.5]},
        {"std": [0.0, 1.0, 1.0]},
        {"std": [float("nan")] * 3},
        {"mean": [float("inf")] * 3},
        {"sharpness": 1.0},
    ],
)
def test_wrong_form_is_refused(wrong):
    with pytest.raises(ValueError, match="a wrong preprocessing"):
        read_preprocessing({**(pack_preprocessing(FORM) or {}), **wrong})
