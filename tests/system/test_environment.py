import pytest
import torch

from fastft.system.environment import pick_amp, pick_device
from pipelines.errors import UsageError


def test_devices_and_dtypes() -> None:
    cpu = torch.device("cpu")
    assert pick_device("cpu") == cpu
    assert pick_amp("off", cpu) is None
    assert pick_amp("fp16", cpu) is torch.float16
    assert pick_amp("auto", cpu) in (None, torch.bfloat16)
    for name in ("gpu", "cuda:99", "xla"):
        with pytest.raises(UsageError, match="--device"):
            pick_device(name)
