"""The parameters of a model as transformers would hold them, from its config alone: on a device without memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from mlx_moebench.checkpoints import check_unquantised
from mlx_moebench.checkpoints.described import Described
from mlx_moebench.checkpoints.size import Part, Places, nf4_bytes
from mlx_moebench.errors import ModelLoadError
from mlx_moebench.options import UNQUANTISED, Loading
from mlx_moebench.types import Json

from .fourbit import empty_model, expert_weights, linear_weights
from .reading import as_read, check
from .weights import dtypes

NAME = "transformers' model on the meta device"


def parts(described: Described, loading: Loading, dtype: str) -> list[Part]:
    """Every parameter of the model that `torch_fallback.load_checkpoint` would make with ``loading``, and its bytes.

    dtype: of all that is not in 4 bit. Raises ModelLoadError and UnsupportedModelError as loading does.
    """
    if loading.bits not in (None, 4) or loading.router_bits not in (None, UNQUANTISED):
        raise ModelLoadError("On torch 4 bit are offered, with routers unquantised; give --bits 4, or leave it out.")
    family, config = described.family, described.config
    check(family, config)
    with _in_folder(config) as folder:
        model = empty_model(folder, getattr(torch, dtype), trust_remote_code=False)
    model.tie_weights()  # so that what is shared counts once
    packed = set()
    if loading.bits is not None:
        check_unquantised(config, described.name)
        packed = {one.full_name for one in [*expert_weights(model, family), *linear_weights(model, family)]}
    kept = dtypes(model, getattr(torch, dtype))
    places = Places.of(family, family.specs(as_read(config), torch=True), torch=True)
    found = []
    for name, value in model.named_parameters():
        nbytes = nf4_bytes(value.shape) if name in packed else value.numel() * kept[name].itemsize
        role, layer, share = places.role(name, value.shape)
        found.append(Part(name, role, layer, tuple(value.shape), nbytes, share))
    return found


@contextmanager
def _in_folder(config: Json) -> Iterator[Path]:
    """A folder with this config, without what says that weights are packed: shapes are those of unpacked ones."""
    with TemporaryDirectory() as aside:
        plain = {key: value for key, value in config.items() if key not in ("quantization", "quantization_config")}
        Path(aside, "config.json").write_text(json.dumps(plain), encoding="utf-8")
        yield Path(aside)


def gpu_memory() -> int | None:
    """Bytes of the first CUDA GPU; None without one."""
    return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None
