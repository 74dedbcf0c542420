"""What an exported model says of itself, and what of that is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fastft.runs.checkpoint import Checkpoint
from fastft.runs.description import INTERFACE, MODEL, Interface, for_others, read_metadata
from fastft.runs.description import to_metadata as write
from pipelines.preprocessing import IMAGENET

FACE = Interface(format="onnx", takes="whole photos", outputs=("logits", "probabilities"))


def test_a_description_survives(trained: Checkpoint) -> None:
    told = for_others(trained)
    checkpoint, interface = read_metadata(write(told, FACE))
    assert interface == FACE
    assert (checkpoint.model, checkpoint.ema, dict(checkpoint.optimizer)) == ({}, None, {})
    for name in ("arch", "classes", "size", "view", "epoch", "accuracy", "config", "score"):
        assert getattr(checkpoint, name) == getattr(trained, name)
    assert checkpoint.preprocessed == IMAGENET
    assert json.loads(write(told, FACE)[MODEL])["preprocessing"]["crop_share"] == 0.875


def test_paths_stay_on_their_machine(trained: Checkpoint) -> None:
    config = {"data": "/home/me/photos", "weights": "/home/me/w.pth", "out": "/home/me/run"}
    config |= {"store_file": "/home/me/px", "lr": 0.1}
    told = for_others(replace(trained, config=config))
    assert told.config == {"data": "photos", "weights": "w.pth", "lr": 0.1}


def test_evaluated_weights_are_told(trained: Checkpoint) -> None:
    average = {name: tensor + 1 for name, tensor in trained.model.items()}
    assert for_others(replace(trained, ema=average)).model == average
    assert for_others(trained).model == trained.model


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (MODEL, None),
        (INTERFACE, None),
        (MODEL, "{"),
        (MODEL, "[" * 100_000),
        (MODEL, '{"version": 3}'),
        (MODEL, '{"version": 2, "arch": 7}'),
        (INTERFACE, "[1]"),
        (INTERFACE, '{"version": 2, "format": "onnx", "takes": "whole photos", "outputs": []}'),
        (INTERFACE, '{"format": "tflite", "takes": "whole photos", "outputs": []}'),
        (INTERFACE, '{"format": "onnx", "takes": "anything", "outputs": []}'),
        (INTERFACE, '{"format": "onnx", "takes": "whole photos", "outputs": [1]}'),
        (INTERFACE, '{"format": "onnx", "takes": "whole photos", "outputs": [], "more": 1}'),
        (INTERFACE, " " * (1 << 24) + "{}"),
    ],
)
def test_odd_descriptions_are_refused(key: str, text: str | None, trained: Checkpoint) -> None:
    metadata = write(for_others(trained), FACE)
    if text is None:
        del metadata[key]
    else:
        metadata[key] = text
    with pytest.raises((ValueError, TypeError, RecursionError)):
        read_metadata(metadata)


def test_thresholds_and_units_are_told(trained: Checkpoint, tmp_path: Path) -> None:
    meaning = {"task": "labels", "score": 0.5, "thresholds": [0.1, 0.2, 0.3]}
    told = for_others(replace(trained, meaning=meaning))
    assert read_metadata(write(told, FACE))[0].outputs.thresholds == (0.1, 0.2, 0.3)
