"""What can be known of a model before it is downloaded: its config, and the headers of its weight files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelLoadError
from ..families import Family, family_for
from ..families.settings import SECTION, Key, value_of
from ..types import Json
from .folder import config_at, read_config
from .hub import NANO_NAME, WEIGHTS, commit_of, fetch_settings, headers, local_folder
from .located import NANO
from .packing import Packing, packing_of
from .rules import check_settings
from .shapes import check_shapes
from .weights import BITS, INDEX, Tensor, Weights, read_json, read_weights

PLAIN = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a number of the dtypes that models are computed in."""

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Described:
    """A model of which no weight has been read.

    name: the hub id, the folder's name, or ``moebench-nano``. weights: what its files hold by their headers; None where
    config.json alone is there. total: the bytes of all weights by an index, where nothing else says them.
    """

    name: str
    config: Json
    family: Family
    revision: str | None
    weights: Weights | None
    total: int | None = None

    @property
    def packing(self) -> Packing | None:
        """How its weights are packed, by config.json; None for plain ones."""
        return packing_of(self.config)

    @property
    def dtype(self) -> str:
        """The dtype of most unpacked numbers, by the headers, else by config.json, else bfloat16."""
        if self.weights is not None:
            sizes: Counter[str] = Counter()
            for tensor in self.weights.tensors.values():
                if tensor.dtype in _DTYPES:
                    sizes[_DTYPES[tensor.dtype]] += math.prod(tensor.shape)
            if sizes:
                return sizes.most_common(1)[0][0]
        for key in ("dtype", "torch_dtype", f"{SECTION}.dtype", f"{SECTION}.torch_dtype"):
            if (named := str(value_of(self.config, Key(key, None))).removeprefix("torch.")) in PLAIN:
                return named
        return "bfloat16"

    @property
    def stored(self) -> int | None:
        """Bytes of the weights on disk; None where nothing says them."""
        if self.weights is None:
            return self.total
        return sum(math.prod(one.shape) * BITS.get(one.dtype, 0) // 8 for one in self.weights.tensors.values())

    @property
    def source(self) -> str:
        """What was read to know this."""
        if self.weights is not None:
            return "config.json and the headers of the weights"
        return "config.json" if self.total is None else "config.json and the index of the weights"


def describe(model: str | Path | None, revision: str | None = None) -> Described:
    """The model that ``model`` names: a folder, a config.json, a hub id, or as None or by its name the embedded one.

    Of a hub model config.json is fetched, and the headers of its weight files, but no weight. A folder needs
    config.json alone. Raises ModelLoadError where there is none, or where it contradicts the headers, and
    UnsupportedModelError where it is of a dense model or no family serves it.
    """
    path = None if model is None else Path(model).expanduser()
    if model is None or model == NANO_NAME:
        return _of_folder(NANO, NANO_NAME)
    if path is not None and path.is_file() and path.suffix == ".json":
        config = config_at(path)
        return Described(path.resolve().parent.name, config, _family(config), None, None)
    folder = local_folder(model)
    if folder is not None:
        return _of_folder(folder, folder.name)
    name = str(model)
    fetched = fetch_settings(name, revision)
    config = config_at(fetched)
    family = _family(config)
    commit = commit_of(fetched.parent) or revision
    weights = _weights(fetched.parent, headers(name, commit))
    return Described(name, config, family, commit, _checked(family, config, weights))


def _of_folder(folder: Path, name: str) -> Described:
    config = read_config(folder)
    family = _family(config)
    if any(folder.glob(WEIGHTS)):
        return Described(name, config, family, commit_of(folder), _checked(family, config, read_weights(folder)))
    return Described(name, config, family, commit_of(folder), None, _total(folder))


def _family(config: Json) -> Family:
    family = family_for(config)
    check_settings(config)
    return family


def _checked(family: Family, config: Json, weights: Weights | None) -> Weights | None:
    if weights is not None:
        check_shapes(family, config, weights)
    return weights


def _weights(folder: Path, known: Mapping[str, tuple[str, str, tuple[int, ...]]] | None) -> Weights | None:
    """What files that are not here hold."""
    if not known:
        return None
    tensors = {name: Tensor(folder / file, dtype, shape) for name, (file, dtype, shape) in known.items()}
    return Weights(folder, tuple(sorted({tensor.file for tensor in tensors.values()})), tensors)


def _total(folder: Path) -> int | None:
    """The bytes of all weights by the index of a folder that has not got them; None without one."""
    path = folder / INDEX
    if not path.is_file():
        return None
    content = read_json(path)
    size = content.get("metadata", {}).get("total_size") if isinstance(content, dict) else None
    if type(size) is not int or size < 0:
        raise ModelLoadError(f"{path} has no total_size, the bytes of the weights; remove it, or fetch it again.")
    return size
