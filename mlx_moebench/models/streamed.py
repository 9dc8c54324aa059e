"""A model whose weights are read one layer at a time, and dropped when every batch has been through the layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map

from ..checkpoints.weights import Weights
from ..data import Batch
from ..instrument.cpu_path import only_routing
from ..instrument.replay import Replay, put_together, taken_apart
from ..instrument.tap import untapped
from ..types import HostArray, Json
from .prefetch import Prefetch


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).rpartition(".")[2]


_FLOATS = (mx.bfloat16, mx.float16, mx.float32)
_OTHERS = (mx.bool_, mx.uint8, mx.uint16, mx.uint32, mx.uint64, mx.int8, mx.int16, mx.int32, mx.int64)
_DTYPES = {_name(dtype): dtype for dtype in (*_FLOATS, *_OTHERS)}
_WIDTHS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}


class StreamedModel:
    """The layers of ``network``, whose parameters are not computed yet; see `measure.streaming.Layers`.

    A parameter that was dropped is NaN from then on, so that whatever still used it would be refused by whoever counts.
    ``network`` is of no use for anything else afterwards. weights: the files that it reads, which are asked for ahead.
    """

    def __init__(self, network: nn.Module, weights: Weights) -> None:
        self._network = network
        self._blocks = list(network.layers)
        self._home = untapped(self._blocks[0]).__module__
        self._replay = Replay(network)
        self._ahead = Prefetch(weights)
        self.count = len(self._blocks)

    def __enter__(self) -> StreamedModel:
        self._replay.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ahead.close()
        self._replay.__exit__(*error)

    def bytes_of(self, layer: int) -> int:
        """Bytes in the files of one layer."""
        return self._ahead.bytes_of(layer)

    def read(self, layer: int) -> None:
        """Compute the parameters of a layer, one at a time: what each is cast or packed from is gone before the next
        is read. Of layer -1 only what the embeddings need is, when they do."""
        if layer < 0:
            return
        before = mx.set_cache_limit(0)  # what was cast or stacked is given back at once
        try:
            for _, array in tree_flatten(self._blocks[layer].parameters()):
                mx.eval(array)
        finally:
            mx.set_cache_limit(before)

    def ahead(self, layer: int) -> None:
        """Have the bytes of a layer read from the disk meanwhile."""
        self._ahead.start(layer)

    def drop(self, layer: int) -> None:
        """Let go of a layer's parameters; with layer -1 of all that no block has, such as the embeddings."""
        if layer < 0:
            self._drop_trunk()
        else:
            block = self._blocks[layer]
            block.update(tree_map(_nothing, block.parameters()))
        mx.clear_cache()

    def _drop_trunk(self) -> None:
        ours = {id(module) for block in self._blocks for module in block.modules()}
        for module in self._network.modules():
            if id(module) not in ours:
                for name, value in module.items():
                    if isinstance(value, mx.array) and not name.startswith("_"):
                        module[name] = _nothing(value)

    def run(self, batch: Batch, layer: int, before: Any) -> Any:
        """What block ``layer`` makes of a batch, and of what the one before it made; see `Replay.run`."""
        with only_routing():  # else the CPU path would run the experts after the last router, and read them
            return self._replay.run(mx.array(batch.ids), layer, before)

    def hear(self, batch: Batch, layer: int, before: Any) -> None:
        """As `run`, for what the routers say alone."""
        with only_routing(each_layer=True):
            self._replay.run(mx.array(batch.ids), layer, before)

    def evaluate(self, state: Any) -> int:
        """Compute every array of a state; returns their bytes."""
        arrays, _ = taken_apart(state, self._home)
        mx.eval(arrays)
        return sum(array.nbytes for array in arrays)

    def packed(self, state: Any) -> tuple[dict[str, HostArray], Json]:
        """A state as arrays of the host, and what else it takes to make it of them again."""
        arrays, skeleton = taken_apart(state, self._home)
        kinds = [_name(array.dtype) for array in arrays]
        return {str(n): _bits(array) for n, array in enumerate(arrays)}, {"skeleton": skeleton, "dtypes": kinds}

    def unpacked(self, arrays: Mapping[str, HostArray], facts: Json) -> Any:
        """The state that `packed` was given."""
        kinds = [_DTYPES[kind] for kind in facts["dtypes"]]
        parts = [mx.array(arrays[str(n)]).view(kind) for n, kind in enumerate(kinds)]
        return put_together(parts, facts["skeleton"], self._home)


def _bits(array: mx.array) -> HostArray:
    """The array on the host; floats as integers of their width, for NumPy has no bfloat16."""
    if mx.issubdtype(array.dtype, mx.floating):
        array = array.view(_WIDTHS[array.dtype.size])
    return np.array(array)


def _nothing(array: mx.array) -> mx.array:
    """An array of the same form that takes no memory, and is not a number."""
    if mx.issubdtype(array.dtype, mx.floating):
        return mx.full(array.shape, float("nan"), array.dtype)
    return mx.zeros(array.shape, array.dtype)
