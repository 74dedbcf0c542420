"""timm's networks: names, forms, output layers, weights from wherever."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from effort import rest
from safetensors.torch import save_file
from torch import nn

from fastft.model import timm_models, timm_weights
from fastft.model.classifier import build_model, require_arch, restore_model
from fastft.model.form import Form
from fastft.model.freezing import freeze, set_training, stages
from fastft.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fastft.runs.preprocessing import pack_preprocessing
from pipelines.errors import DataError, UsageError
from pipelines.preprocessing import Preprocessing

timm = pytest.importorskip("timm", reason="timm is not installed")
CLASSES = ("ants", "bees", "hotdog")
VIT, CONV = "timm:test_vit", "timm:test_convnext"
HALF = (0.5, 0.5, 0.5)
# name -> side, its output layer, the names of its first and last parts, how many there are
FAMILIES = {
    "convnext_atto": (64, "head.fc", "stages.0", "stages.3", 4),
    "vit_tiny_patch16_224": (64, "head", "blocks.0", "blocks.11", 12),
    "efficientnet_b0": (64, "classifier", "blocks.0", "blocks.6", 7),
    "resnet18d": (64, "fc", "layer1", "layer4", 4),
    "vit_small_patch14_reg4_dinov2": (56, "head", "blocks.0", "blocks.11", 12),
    "vit_small_patch16_dinov3": (64, "head", "blocks.0", "blocks.11", 12),
}


@pytest.mark.parametrize("name", [*[*FAMILIES][:4], *rest(*[*FAMILIES][4:])])
def test_every_family_gets_the_right_head(name: str) -> None:
    size, head, first, last, count = FAMILIES[name]
    built = build_model(CLASSES, "none", arch=f"timm:{name}", size=size)
    assert built.model.get_submodule(head) is built.head
    with torch.inference_mode():
        assert built.model.eval()(torch.zeros(2, 3, size, size)).shape == (2, 3)
    parts = [part for part, _ in stages(built)]
    assert (parts[0], parts[-1], len(parts)) == (first, last, count)


def build(arch: str = VIT, weights: Any = "none", **options: Any) -> Any:
    return build_model(CLASSES, str(weights), arch=arch, **{"size": 64, **options})


def test_forms_are_those_of_timms_validation() -> None:
    """Also of a model that squashes images, and at the size of its training."""
    assert timm_models.read_form("timm:resnet18d") == Form(
        size=224, preprocessing=Preprocessing(filter="bicubic")
    )
    assert timm_models.read_form("timm:test_resnet").preprocessing == Preprocessing(
        crop_share=0.95, mean=HALF, std=HALF
    )
    squashed = timm_models.read_form("timm:convnext_base.fb_in22k_ft_in1k_384")
    assert (squashed.size, squashed.view) == (384, "eval-square")
    assert squashed.preprocessing.crop_share == 1
    tagless = timm_models.read_form("timm:vit_tiny_patch16_224")
    assert tagless == timm_models.read_form("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k")


def test_a_model_brings_its_size_and_form() -> None:
    built = build(size=0)
    assert built.form.size == 160
    assert built.form.preprocessing.filter == "bicubic"
    other = build(size=64, filter="bilinear", crop_share=0.5)
    assert (other.form.size, other.form.preprocessing) == (
        64,
        Preprocessing(filter="bilinear", crop_share=0.5, mean=HALF, std=HALF),
    )


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("timm:vit_tinny_patch16_224", {}, "such as vit_tiny_patch16_224, deit_tiny_patch16_224"),
        ("timm:vit_tny", {}, "such as vit_tiny_patch16_224, "),
        ("timm:dinov3", {}, "such as vit_7b_patch16_dinov3, "),
        ("timm:tv_resnet50", {}, "expected a classifier of timm's, such as resnet50.tv_in1k"),
        ("timm:", {}, "--arch: 'timm:', expected a classifier of timm's;"),
        ("timm:hf-hub:a/b", {}, "--arch: 'timm:hf-hub:a/b'"),
        ("timm:test_vit.r160", {}, "expected one of test_vit.r160_in1k; or no tag"),
        ("timm:deit_tiny_distilled_patch16_224", {"size": 224}, "has several output layers"),
        ("timm:vit_5b_patch16_sapiens2", {}, "of 3 x 1024 x 768, expected square RGB"),
        ("timm:vgg11", {"drop_path": 0.1}, "timm:vgg11 has no paths to drop"),
        ("resnet18", {"drop_path": 0.1}, "a resnet18 has no paths to drop"),
        ("resnet17", {}, "write timm:NAME for one of timm's"),
        ("timm:test_vit", {"crop_share": 1.5}, "crop share: 1.5"),
        *rest(
            ("timm:crossvit_9_240", {"size": 240}, "has several output layers"),
            ("timm:repvit_m0_9", {}, "has several output layers"),
        ),
    ],
)
def test_wrong_archs_are_one_line(arch: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(arch, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_form_that_no_loader_gives_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"interpolation": "lanczos", "crop_pct": 1.15, "input_size": (3, 64, 64)}
    monkeypatch.setattr(timm_models, "read_config", lambda arch: told)
    with pytest.raises(UsageError, match="resized by 'lanczos', expected one of bilinear, bicubic"):
        timm_models.read_form(VIT)
    with pytest.raises(UsageError, match=r"on 1\.15 of an image's shorter side.*--crop-share 1"):
        timm_models.read_form(VIT, filter="bicubic")
    form = timm_models.read_form(VIT, filter="bicubic", crop_share=1.0)
    assert form.preprocessing == Preprocessing(filter="bicubic", crop_share=1.0)


def test_timm_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timm_models.load_timm.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UsageError, match=r'pip install "fastft\[timm\]"'):
        build()
    saved = a_checkpoint(build_model(CLASSES, "none", arch="squeezenet1_1", size=64))
    with pytest.raises(UsageError, match=r'pip install "fastft\[timm\]"'):
        restore_model(Checkpoint(**{**saved, "arch": VIT}), tmp_path)


def a_checkpoint(built: Any) -> dict[str, Any]:
    return {
        "model": built.model.state_dict(),
        "arch": built.arch,
        "classes": CLASSES,
        "size": built.form.size,
        "view": built.form.view,
        "epoch": 1,
        "accuracy": 0.5,
        "optimizer": {},
        "scaler": {},
        "config": {},
        "preprocessing": pack_preprocessing(built.form.preprocessing),
    }


def save(path: Path, built: Any) -> Path:
    save_checkpoint(path, Checkpoint(**a_checkpoint(built)))
    return path


@pytest.mark.parametrize("arch", [VIT, CONV, *rest("timm:test_efficientnet", "timm:test_resnet")])
def test_a_checkpoint_gives_its_model_back(arch: str, tmp_path: Path) -> None:
    built = build(arch, seed=3)
    path = save(tmp_path / "c.safetensors", built)
    found = load_checkpoint(path)
    assert found.preprocessed == built.form.preprocessing
    model, images = restore_model(found, path), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert model(images).equal(built.model.eval()(images))


def test_checkpoints_that_lie_are_refused(tmp_path: Path) -> None:
    parts = a_checkpoint(build())
    huge = {"arch": "timm:vit_base_patch16_224", "size": 224}
    few = {"model": {**parts["model"], "norm.bias": torch.zeros(3)}}
    for change, message in (
        ({"arch": "timm:no_such"}, "is of a 'timm:no_such', expected a classification model"),
        (huge, r"has 301,059 numbers, expected the 86,\d+,\d+ of a timm:vit_base_patch16_224"),
        (few, r"norm.bias of shape \[3\] instead of \[64\]"),
        ({"classes": ("x",) * 9}, r"head.weight of shape \[3, 64\] instead of \[9, 64\]"),
        ({"size": 80}, "pos_embed of shape"),
    ):
        with pytest.raises(DataError, match=message):
            restore_model(Checkpoint(**{**parts, **change}), tmp_path / "c")
    with pytest.raises(DataError, match="is of a 'timm:x'"):
        require_arch({}, "timm:x", "w")


def test_a_run_gives_arch_form_and_size(tmp_path: Path) -> None:
    path = save(tmp_path / "best.safetensors", build(filter="bilinear", crop_share=0.8))
    found = build_model(2, str(tmp_path), size=0)
    wanted = Preprocessing(crop_share=0.8, mean=HALF, std=HALF)
    assert (found.arch, found.form) == (VIT, Form(size=64, preprocessing=wanted))
    again = build(weights=path, arch=f"{VIT}.r160_in1k", crop_share=0.9)
    assert again.form.preprocessing.crop_share == 0.9
    with pytest.raises(DataError, match=r"is of a timm:test_vit, expected a timm:test_vit2"):
        build(weights=path, arch="timm:test_vit2")


@pytest.fixture(scope="module")
def source() -> dict[str, torch.Tensor]:
    """A network of five classes at 96 px, none of whose tensors is as it was made."""
    torch.manual_seed(9)
    made = timm.create_model("test_vit", num_classes=5, img_size=96).state_dict()
    return {name: tensor + torch.randn_like(tensor) for name, tensor in made.items()}


def as_timm_loads(path: Path) -> Any:
    """The network as timm makes it of a file of five classes."""
    return timm.create_model(
        "test_vit",
        pretrained=True,
        num_classes=3,
        img_size=64,
        pretrained_cfg_overlay={"file": str(path), "num_classes": 5},
    )


@pytest.mark.parametrize(
    "wrapping", ["plain", "model", "ema", "safetensors", "ddp", *rest("state_dict")]
)
def test_files_load_as_timm_loads_them(
    wrapping: str, source: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """Of another number of classes and another size: positions are resampled."""
    path = tmp_path / ("w.safetensors" if wrapping == "safetensors" else "w.pth")
    wrapped: Any = {wrapping: source}
    if wrapping == "plain":
        wrapped = source
    elif wrapping == "ema":  # which timm takes rather than the other
        wrapped = {"state_dict": {"x": torch.zeros(1)}, "state_dict_ema": source}
    elif wrapping == "ddp":
        wrapped = {"state_dict": {f"module.{name}": each for name, each in source.items()}}
    if wrapping == "safetensors":
        save_file(source, path)
    else:
        torch.save(wrapped, path)
    built, wanted = build(weights=path), as_timm_loads(path).state_dict()
    own = built.model.state_dict()
    assert own["pos_embed"].shape == (1, 17, 64)
    assert all(own[name].equal(wanted[name]) for name in own if not name.startswith("head."))
    assert sorted(built.left_out) == ["head.bias [5]", "head.weight [5, 64]"]
    assert built.pretrained
    assert not own["head.weight"].equal(build().model.state_dict()["head.weight"])


def test_names_of_a_models_authors_are_understood(tmp_path: Path) -> None:
    """ConvNeXt's own, which timm renames."""
    made = timm.create_model("test_convnext", num_classes=5)
    theirs = {}
    for name, tensor in made.state_dict().items():
        for ours, own in (
            ("stem.", "downsample_layers.0."),
            (".downsample.", ".D."),
            (".blocks.", "."),
            ("conv_dw.", "dwconv."),
            ("mlp.fc1.", "pwconv1."),
            ("mlp.fc2.", "pwconv2."),
            ("head.norm.", "norm."),
            ("head.fc.", "head."),
        ):
            name = name.replace(ours, own)
        if ".D." in name:
            stage, _, rest = name.removeprefix("stages.").partition(".D.")
            name = f"downsample_layers.{stage}.{rest}"
        theirs[name] = tensor
    torch.save({"model": theirs}, tmp_path / "w.pth")
    own = build(CONV, tmp_path / "w.pth").model.state_dict()
    assert all(own[name].equal(t) for name, t in made.state_dict().items() if "head.fc" not in name)


def test_files_that_do_not_fit(source: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    for change, message in (
        ({"blocks.0.norm1.bias": None}, r"has no blocks\.0\.norm1\.bias"),
        ({"blocks.5.mlp.fc1.weight": torch.zeros(3)}, r"shape \[3\] instead of \[192, 64\]"),
        ({"pos_embed": torch.zeros(3)}, "holds names or shapes that timm cannot use"),
        ({"norm.bias": torch.full((64,), float("nan"))}, "NaN or infinity"),
    ):
        state = {name: t for name, t in {**source, **change}.items() if t is not None}
        torch.save(state, path)
        with pytest.raises(DataError, match=message):
            build(weights=path)
    torch.save({"norm.bias": torch.zeros(64)}, path)
    with pytest.raises(DataError, match=r"and 7\d more, expected the tensors of a timm"):
        build(weights=path)


def test_features_alone_begin_with_a_new_norm(tmp_path: Path) -> None:
    """Beyond them a file may hold what has no place."""
    whole = timm.create_model("test_vit4", num_classes=5).state_dict()
    body = {name: t for name, t in whole.items() if not name.startswith(("head.", "fc_norm."))}
    torch.save({**body, "decoder.weight": torch.zeros(7)}, tmp_path / "w.pth")
    built = build("timm:test_vit4", tmp_path / "w.pth", size=160)
    assert built.begun == ("fc_norm.weight",)
    assert built.left_out == ("decoder.weight [7]",)
    own = built.model.state_dict()
    assert all(own[name].equal(tensor) for name, tensor in body.items())


def test_a_class_begins_as_the_sources_own(source: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(source, tmp_path / "w.safetensors")
    built = build(weights=tmp_path / "w.safetensors", reuse_head=["bees=4"])
    assert built.head.weight[1].equal(source["head.weight"][4])
    assert built.reused == {"bees": 4}
    with pytest.raises(UsageError, match="--reuse-head: 'bees=5', a row"):
        build(weights=tmp_path / "w.safetensors", reuse_head=["bees=5"])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """The cache of the Hugging Face Hub without a network, into which files of a model go."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(name: str, write: Any) -> None:
        folder = tmp_path / "hub" / "models--timm--test_vit.r160_in1k"
        snapshot = folder / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True, exist_ok=True)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text("a" * 40)
        write(snapshot / name)

    return put


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_timms_own_weights_come_from_the_hub(
    file: str, hub: Callable[[str, Any], None], source: dict[str, torch.Tensor]
) -> None:
    write = save_file if file.endswith("safetensors") else torch.save
    hub(file, lambda path: write(source, path))
    built = build(weights="imagenet")
    assert built.model.state_dict()["norm.weight"].equal(source["norm.weight"])
    assert build(f"{VIT}.r160_in1k", "imagenet").pretrained


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("is_offline", [True, False])
def test_no_hub_is_one_line_with_a_remedy(
    is_offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
    monkeypatch.setattr(timm_weights, "urlopen", offline)
    with pytest.raises(DataError, match="--weights imagenet of timm:test_vit") as caught:
        build(weights="imagenet")
    reason = "HF_HUB_OFFLINE is set" if is_offline else "no route to host"
    assert f"timm/test_vit.r160_in1k, model.safetensors ({reason})" in str(caught.value)
    assert "pass --weights PATH with that file, or --weights none" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_another_format_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(timm_weights, "read_config", lambda arch: {"url": "https://a/b.npz"})
    with pytest.raises(DataError, match="timm has none that can be read here; pass --arch timm:"):
        timm_weights.fetch_weights(VIT)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(timm_weights, "read_config", lambda arch: {"url": "file:///no/file.pth"})
    with pytest.raises(DataError, match=r"cannot download file:///no/file\.pth"):
        timm_weights.fetch_weights(VIT)


def test_frozen_backbone_leaves_the_head() -> None:
    built = build("timm:test_efficientnet")
    frozen = freeze(built, "backbone")
    learning = {name for name, p in built.model.named_parameters() if p.requires_grad}
    assert learning == {"classifier.weight", "classifier.bias"}
    set_training(built.model, frozen)
    norms = [m for m in built.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)


def test_stages_count_from_the_input() -> None:
    built = build(drop_path=0.3)
    set_training(built.model, freeze(built, "stages:2"))
    held = {name for name, p in built.model.named_parameters() if not p.requires_grad}
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.1.norm1.bias"} <= held
    assert not any(name.startswith(("blocks.2.", "norm.", "head.")) for name in held)
    assert [m.training for m in built.model.blocks] == [False, False, True, True, True, True]
    with pytest.raises(UsageError, match=r"stages:1 to stages:6 of a timm:test_vit \(blocks\.0, "):
        freeze(built, "stages:7")


def test_networks_without_layers_say_so() -> None:
    built = build("timm:caformer_s18")
    with pytest.raises(UsageError, match="--freeze: given with timm:caformer_s18, whose layers"):
        freeze(built, "stages:1")
    assert freeze(built, "backbone")
