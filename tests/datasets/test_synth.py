from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from effort import rest
from numpy.typing import NDArray
from PIL import Image

from fastft.datasets import synth
from fastft.datasets.synth import MARKER, SynthConfig, write_synth
from fastft.datasets.synth_draw import draw_jpeg
from fastft.datasets.synth_motif import FAMILIES, calibrate, unit_outline
from pipelines.errors import DataError, UsageError

SMALL: dict[str, Any] = {"classes": 2, "per_class": 6, "size": (64, 48), "workers": 1}
CLASSES = 4
TRAIN, TEST = 50, 35
SIZE = (64, 54)


def _digest(root: Path) -> dict[str, str]:
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module", params=["shapes", *rest("weaves")])
def family_photos(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of one family, large enough to train a linear classifier on."""
    out: Path = tmp_path_factory.mktemp("synth") / request.param
    write_synth(
        SynthConfig(
            out=out,
            family=request.param,
            classes=CLASSES,
            per_class=TRAIN,
            test_per_class=TEST,
            size=SIZE,
            workers=1,
        )
    )
    return out


# --- what is written ---------------------------------------------------------------------------


def test_layout_counts_and_result(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    config = SynthConfig(out=tmp_path / "a" / "set", **SMALL)
    result = write_synth(config, on_progress=lambda done, total: seen.append((done, total)))
    files = list(config.out.rglob("*.jpg"))
    assert sorted(path.name for path in config.out.iterdir()) == [MARKER, "test", "train"]
    assert result.classes == FAMILIES["shapes"][:2]
    for split, count in (("train", 6), ("test", 1)):
        assert {path.name for path in (config.out / split).iterdir()} == set(result.classes)
        for name in result.classes:
            names = sorted(path.name for path in (config.out / split / name).iterdir())
            assert names == [f"{i:04d}.jpg" for i in range(count)]
    assert (result.train_images, result.test_images) == (12, 2)
    assert result.bytes == sum(file.stat().st_size for file in files)
    assert seen[-1] == (14, 14)
    assert seen == sorted(seen)
    assert [path.name for path in config.out.parent.iterdir()] == ["set"]


def test_same_bytes_from_any_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synth, "MIN_FOR_WORKERS", 1)
    monkeypatch.setattr(synth, "CHUNK", 5)
    digests = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        write_synth(SynthConfig(out=out, **{**SMALL, "per_class": 12, "workers": workers}))
        digests.append(_digest(out))
    assert digests[0] == digests[1]
    # Nor does a photo depend on how many there are, except that a larger set has more.
    write_synth(SynthConfig(out=tmp_path / "more", **{**SMALL, "classes": 3, "per_class": 15}))
    more = _digest(tmp_path / "more")
    assert all(more[name] == sha for name, sha in digests[0].items() if name.endswith(".jpg"))


def test_every_photo_is_another(tmp_path: Path) -> None:
    digests: set[str] = set()
    count = 0
    for seed in (0, 1):
        for family in FAMILIES:
            out = tmp_path / f"{family}{seed}"
            write_synth(SynthConfig(out=out, family=family, seed=seed, **SMALL))
            shas = [sha for name, sha in _digest(out).items() if name.endswith(".jpg")]
            digests.update(shas)
            count += len(shas)
    assert len(digests) == count == 4 * 14


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_class_draws_at_extreme_sizes(family: str) -> None:
    assert len(FAMILIES[family]) >= 8
    for class_id in range(len(FAMILIES[family])):
        for size in ((32, 32), (300, 32), (32, 200)):
            rng = np.random.default_rng(class_id)
            with Image.open(io.BytesIO(draw_jpeg(rng, family, class_id, size))) as image:
                image.load()
                assert 0.5 < image.width * image.height / (size[0] * size[1]) < 2


def test_shapes_cover_one_area() -> None:
    def area(p: NDArray[np.float64]) -> float:
        x, y = p.T
        return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2

    for name in FAMILIES["shapes"]:
        outer, *holes = unit_outline(name)
        assert area(outer) - sum(map(area, holes)) == pytest.approx(1)


def test_edge_length_of_known_textures() -> None:
    # Stripes of period 1 have 2 edges per unit of way; a checkerboard of 0.5 squares, 2 each way.
    assert calibrate("stripes")[1] == pytest.approx(2, rel=0.05)
    assert calibrate("checker")[1] == pytest.approx(4, rel=0.05)


# --- photo-like --------------------------------------------------------------------------------


def test_sizes_vary_about_the_mean(family_photos: Path) -> None:
    sizes = []
    for file in family_photos.rglob("*.jpg"):
        with Image.open(file) as image:
            sizes.append(image.size)
    w, h = np.array(sizes).T
    assert w.mean() == pytest.approx(SIZE[0], rel=0.06)
    assert h.mean() == pytest.approx(SIZE[1], rel=0.06)
    ratio = w / h
    assert len(set(sizes)) > len(sizes) / 3
    assert ratio.min() < 0.9 < 1.6 < ratio.max()


def test_some_photos_are_grayscale_progressive_or_444(family_photos: Path) -> None:
    gray = progressive = full_chroma = 0
    files = list(family_photos.rglob("*.jpg"))
    for file in files:
        with Image.open(file) as image:
            gray += image.mode == "L"
            progressive += bool(image.info.get("progressive"))
            layers = getattr(image, "layer", [])
            full_chroma += len(layers) == 3 and layers[0][1:3] == (1, 1)
    assert 0.01 < gray / len(files) < 0.08
    assert 0.01 < progressive / len(files) < 0.08
    assert 0.05 < full_chroma / len(files) < 0.16


# --- nothing but the motif tells classes apart -------------------------------------------------


def _features(file: Path) -> list[float]:
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float64).reshape(-1, 3)
        return [*pixels.mean(0), *pixels.std(0), image.width, image.height, file.stat().st_size]


def _read_split(root: Path, feature: Callable[[Path], list[float]]) -> tuple[Any, Any]:
    files = [(file, i) for i, d in enumerate(sorted(root.iterdir())) for file in d.iterdir()]
    return np.array([feature(file) for file, _ in files]), np.array([i for _, i in files])


def _accuracies(root: Path, feature: Callable[[Path], list[float]]) -> dict[str, float]:
    """Test accuracy of nearest centroid and of least squares with all products of two features."""
    x, y = _read_split(root / "train", feature)
    x_test, y_test = _read_split(root / "test", feature)
    centre, spread = x.mean(0), x.std(0)
    x, x_test = (x - centre) / spread, (x_test - centre) / spread
    centroids = np.stack([x[y == i].mean(0) for i in range(CLASSES)])
    nearest = ((x_test[:, None] - centroids) ** 2).sum(-1).argmin(1)

    def squares(a: NDArray[np.float64]) -> NDArray[np.float64]:
        upper = np.triu_indices(a.shape[1])
        products = (a[:, :, None] * a[:, None, :])[:, upper[0], upper[1]]
        return np.concatenate([np.ones((len(a), 1)), a, products], axis=1)

    design = squares(x)
    ridge = design.T @ design + 5 * np.eye(design.shape[1])
    weights = np.linalg.solve(ridge, design.T @ np.eye(CLASSES)[y])
    fitted = (squares(x_test) @ weights).argmax(1)
    return {
        "nearest": float((nearest == y_test).mean()),
        "fitted": float((fitted == y_test).mean()),
    }


def test_colour_and_size_do_not_tell_classes_apart(family_photos: Path) -> None:
    accuracies = _accuracies(family_photos, _features)
    assert max(accuracies.values()) < 1 / CLASSES + 0.12, accuracies


def test_the_leak_test_sees_a_leak(family_photos: Path) -> None:
    accuracies = _accuracies(family_photos, lambda f: [*_features(f), float(len(f.parent.name))])
    assert accuracies["fitted"] > 0.45


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"family": "fruit"}, "--family"),
        ({"classes": 1}, "--classes"),
        ({"classes": 99}, "--classes"),
        ({"per_class": 0}, "--per-class"),
        ({"test_per_class": 0}, "--test-per-class"),
        ({"size": (200, 8)}, "--size"),
        ({"size": (20_000, 200)}, "--size"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**32}, "--seed"),
        ({"workers": 0}, "--workers"),
    ],
)
def test_bad_values(tmp_path: Path, values: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError, match=f"^{option}: .*expected"):
        SynthConfig(out=tmp_path / "out", **values)


def test_nonempty_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear to someone")
    for overwrite in (False, True):
        with pytest.raises(DataError, match=r"not empty|thesis\.txt"):
            write_synth(SynthConfig(out=tmp_path, overwrite=overwrite, **SMALL))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_way(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("a file")
    for path in (out, out / "below"):
        with pytest.raises(DataError):
            write_synth(SynthConfig(out=path, overwrite=True, **SMALL))
    assert out.read_text() == "a file"


def test_overwrite_replaces_what_synth_wrote(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_synth(SynthConfig(out=out, **SMALL))
    with pytest.raises(DataError, match="--overwrite"):
        write_synth(SynthConfig(out=out, **SMALL))
    write_synth(SynthConfig(out=out, overwrite=True, **{**SMALL, "family": "weaves"}))
    assert {path.name for path in (out / "train").iterdir()} == set(FAMILIES["weaves"][:2])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "foreign",
    [
        "train.beton",
        "train/notes",
        "test/disk/mine.jpg",
        "train/ring/0006.jpg",
        "train/cross/a.jpg",
    ],
)
def test_overwrite_refuses_a_set_that_holds_more(tmp_path: Path, foreign: str) -> None:
    write_synth(SynthConfig(out=tmp_path / "out", **SMALL))
    (tmp_path / "out" / foreign).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / foreign).write_text("mine")
    before = _digest(tmp_path)
    with pytest.raises(DataError, match="did not write"):
        write_synth(SynthConfig(out=tmp_path / "out", overwrite=True, **SMALL))
    assert _digest(tmp_path) == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"writer": "someone"}'])
def test_overwrite_refuses_a_marker_of_another(tmp_path: Path, text: str) -> None:
    (tmp_path / MARKER).write_text(text)
    with pytest.raises(DataError, match=MARKER):
        write_synth(SynthConfig(out=tmp_path, overwrite=True, **SMALL))


def test_marker_says_what_was_asked(tmp_path: Path) -> None:
    write_synth(SynthConfig(out=tmp_path / "out", seed=7, **SMALL))
    assert json.loads((tmp_path / "out" / MARKER).read_text()) == {
        "writer": "fastft synth",
        "family": "shapes",
        "classes": list(FAMILIES["shapes"][:2]),
        "counts": {"train": 6, "test": 1},
        "size": [64, 48],
        "seed": 7,
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_surfaces_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(synth, "MIN_FOR_WORKERS", 1)

    def remove_folders(done: int, total: int) -> None:
        for folder in (tmp_path / "a").glob(".out.*/data/*/*"):
            folder.rename(tmp_path / f"{folder.parent.name}-{folder.name}")

    config = SynthConfig(
        out=tmp_path / "a" / "out", **{**SMALL, "per_class": 100, "workers": workers}
    )
    with pytest.raises(DataError, match="no such file"):
        write_synth(config, remove_folders)
    assert list((tmp_path / "a").iterdir()) == []


def test_an_interrupt_leaves_what_was_there(tmp_path: Path) -> None:
    write_synth(SynthConfig(out=tmp_path / "out", **SMALL))
    before = _digest(tmp_path)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_synth(SynthConfig(out=tmp_path / "out", overwrite=True, seed=1, **SMALL), interrupt)
    assert _digest(tmp_path) == before
