import pytest

from fastft.bench.ceilings import (
    GPU,
    Ceiling,
    Measured,
    Rates,
    find_ceiling,
    recommend,
    training_rate,
    training_seconds,
)

#: Round figures of four cores.
RATES: Rates = {
    "read_cold": 900.0,
    "read_warm": 50_000.0,
    "decode_one_core": 1000.0,
    "decode_all_cores": 4000.0,
    "kernel_one_core": 4000.0,
    "kernel_all_cores": 16_000.0,
    "copy_to_device": None,
    "model_step": 100.0,
}


def measured(
    loader: str, img_per_s: float, first: float | None = None, **other: object
) -> Measured:
    values: dict[str, object] = {
        "loader": loader,
        "workers": 4,
        "img_per_s": img_per_s,
        "first_epoch_img_per_s": first or img_per_s,
        "cold_img_per_s": None,
        "train_img_per_s": 1.0,
        "cpu_s_per_image": 0.001,
        "peak_rss_bytes": 1,
        "import_s": 0.0,
        "first_batch_s": 0.1,
        "bytes_per_image": 1,
        "binds": "decode_all_cores",
        "ceiling_img_per_s": 1.0,
        "share_of_ceiling": 1.0,
    }
    return Measured(**{**values, **other})  # type: ignore[arg-type]


def ceiling(loader: str, workers: int = 4, on_gpu: bool = False, **rates: float | None) -> Ceiling:
    return find_ceiling(loader, workers, {**RATES, **rates}, cores=4, on_gpu=on_gpu)


def test_decoding_loaders_pay_decoding_and_kernel() -> None:
    for loader in ("ffcv", "torchvision", "stock", "dali"):
        found = ceiling(loader)
        assert found.binds == "decode_all_cores"
        assert found.img_per_s == pytest.approx(3200)  # 1 / (1/4000 + 1/16000)


def test_workers_use_at_most_all_cores() -> None:
    one = ceiling("ffcv", 1)
    assert (one.binds, one.img_per_s) == ("decode_one_core", pytest.approx(800))
    # Three of four cores decode 3000, and cut 12000.
    assert ceiling("ffcv", 3).img_per_s == pytest.approx(2400)
    assert ceiling("ffcv", 64) == ceiling("ffcv", 4)


def test_cores_that_share_something_count_for_less() -> None:
    slow = ceiling("resident", 2, kernel_all_cores=7000.0)
    assert slow.img_per_s == pytest.approx(5000)  # 4000 and a third of 3000


def test_a_machine_of_one_core() -> None:
    rates = {**RATES, "decode_all_cores": 1000.0, "kernel_all_cores": 4000.0}
    found = find_ceiling("ffcv", 2, rates, cores=1, on_gpu=False)
    assert (found.binds, found.img_per_s) == ("decode_one_core", pytest.approx(800))


def test_decoded_loaders_are_bound_by_the_kernel() -> None:
    assert ceiling("resident", read_warm=1.0) == Ceiling("kernel_all_cores", 16_000)


def test_what_is_slower_than_the_cores_binds() -> None:
    assert ceiling("ffcv", read_warm=500.0) == Ceiling("read_warm", 500)
    assert ceiling("ffcv", on_gpu=True, copy_to_device=300.0) == Ceiling("copy_to_device", 300)
    assert ceiling("ffcv", kernel_all_cores=100.0).binds == "kernel_all_cores"


def test_of_stored_pixels_nothing_is_decoded() -> None:
    found = ceiling("ffcv", decode_one_core=None, decode_all_cores=None)
    assert found == Ceiling("kernel_all_cores", pytest.approx(16_000))


def test_nothing_is_known_of_what_a_gpu_does() -> None:
    assert ceiling("resident", on_gpu=True) == ceiling("dali", on_gpu=True) == Ceiling(GPU, None)


def test_gpu_training_follows_the_slower_side() -> None:
    assert training_rate(50, 100, shares_cores=False) == pytest.approx(50)
    assert training_rate(400, 100, shares_cores=False) == pytest.approx(100)


def test_on_shared_cores_an_image_takes_both_times() -> None:
    assert training_rate(100, 100, shares_cores=True) == pytest.approx(50)
    assert training_rate(400, None, shares_cores=True) == 400


def test_the_first_epoch_and_imports_count() -> None:
    row = measured("resident", 1000, 100, import_s=3.0)
    # 3 s, one epoch at 100, four at 1000 images/s; a model that takes no time
    assert training_seconds(row, 2000, None, shares_cores=True) == pytest.approx(3 + 20 + 4 * 2)


def test_the_quickest_whole_training_wins() -> None:
    rows = [
        measured("torchvision", 700),
        measured("ffcv", 2000),
        measured("resident", 13_000, 1700),
    ]
    found = recommend(rows, 1000, 850, shares_cores=False)
    assert (found.loader, found.workers) == ("resident", 4)
    assert found.line == (
        "take --loader resident --workers 4: 13,000 images/s, 15x what the model can learn"
    )
    assert "with it the model binds: 5 epochs of 1,000 images would take 5.9 s" in found.reason
    assert "with torchvision 7.1 s" in found.reason


def test_near_ties_go_to_the_simplest() -> None:
    rows = [
        measured("ffcv", 2000),
        measured("torchvision", 700),
        measured("torchvision", 650, workers=2),
        measured("resident", 13_000, 1700),
    ]
    found = recommend(rows, 1000, 10, shares_cores=True)
    assert (found.loader, found.workers) == ("torchvision", 2)
    assert found.reason.startswith("the model binds, no loader would save 5%")
    # Ten times as fast a model, and the loader does matter.
    assert recommend(rows, 1000, 300, shares_cores=True).loader == "resident"


def test_too_slow_a_loader_is_said_to_be() -> None:
    found = recommend([measured("torchvision", 50)], 3, 100, shares_cores=False)
    assert "0.5x what the model can learn" in found.line
    assert found.reason.startswith("input binds even so, by decode all cores")


def test_stock_is_taken_only_alone() -> None:
    rows = [measured("stock", 900), measured("torchvision", 700)]
    assert recommend(rows, 1000, 900, shares_cores=False).loader == "torchvision"
    assert recommend(rows[:1], 1000, None, shares_cores=False).line == (
        "take --stock --workers 4: 900 images/s"
    )


def test_long_times_are_told_in_minutes_and_hours() -> None:
    rows = [measured("torchvision", 100.0)]
    assert "would take 10.0 min" in recommend(rows, 12_000, None, shares_cores=False).reason
    assert "would take 16.7 h" in recommend(rows, 1_200_000, None, shares_cores=False).reason
