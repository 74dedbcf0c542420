"""timm's own weights: which file of which address, fetched into the caches that timm uses, too."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from fastft.model.timm_models import PREFIX, load_timm, read_config, require_name
from pipelines.errors import DataError, one_line

#: Names of a model's file, the one that cannot hold code first.
_NAMES = ("model.safetensors", "pytorch_model.bin")
_TIMEOUT_S = 20
_REMEDY = "pass --weights PATH with that file, or --weights none"


def fetch_weights(arch: str) -> Path:
    """The file of a model's weights: timm's tag, of a name without one its default.

    Raises:
        DataError: there are none, or no network.
        UsageError: timm is not installed, or has no such model.
    """
    name, config = require_name(arch), read_config(arch)
    what = f"--weights imagenet of {arch}"
    if (address := config.get("hf_hub_id")) and config.get("custom_load") != "hf":
        return _fetch_from_hub(str(address), what)
    url = config.get("url")
    if not isinstance(url, str) or urlsplit(url).path.endswith((".npz", ".npy")):
        others = list(load_timm().list_models(f"{name}.*", pretrained=True))
        known = f"pass --arch {PREFIX}{others[0]}, or " if others else "pass "
        raise DataError(what, "timm has none that can be read here", "", f"{known}--weights PATH")
    from timm.models._hub import download_cached_file

    try:
        return Path(download_cached_file(url, check_hash=True))
    except (OSError, RuntimeError) as error:  # no network; a hash that does not match
        raise _cannot(what, url, getattr(error, "reason", error)) from error


def _fetch_from_hub(address: str, what: str) -> Path:
    from huggingface_hub import constants, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    repository, _, asked = address.partition("@")
    revision = asked or None
    for file in _NAMES:
        with suppress(EntryNotFoundError):
            return Path(hf_hub_download(repository, file, revision=revision, local_files_only=True))
    told: object = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "no such file"
    for file in () if constants.HF_HUB_OFFLINE else _NAMES:
        try:
            # Asked first, since the library tries again for a minute before it gives up.
            url = hf_hub_url(repository, file, revision=revision)
            with suppress(HTTPError):  # of which it knows more: a token, another address
                urlopen(Request(url, method="HEAD"), timeout=_TIMEOUT_S).close()
            return Path(hf_hub_download(repository, file, revision=revision))
        except EntryNotFoundError as error:
            told = error
        except OSError as error:
            raise _cannot(what, f"{address}, {file}", getattr(error, "reason", error)) from error
    raise _cannot(what, f"{address}, {_NAMES[0]}", told)


def _cannot(what: str, file: str, error: object) -> DataError:
    reason = one_line(str(error)).partition(". ")[0][:200]
    return DataError(what, f"cannot download {file} ({reason})", "a network", _REMEDY)
