"""The order in which a training sees its sequences: that of stock mlx-lm, or batches of like length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from mlx_lm.tuner.datasets import CacheDataset
from mlx_lm.tuner.trainer import iterate_batches

from .config import TrainingConfig
from .data import Tokens

Batches = list[list[int]]
"""The rows of each batch of an epoch, in the order in which they come."""


class Validations(NamedTuple):
    """What stock mlx-lm draws from its random state for validation: an order of ``batches``, at step 1 and at every
    multiple of ``every``. No batches: nothing."""

    batches: int
    every: int


def validations(values: Any, sequences: int) -> Validations:
    """Those of a training with the settings ``values`` and so many validation sequences."""
    batches = sequences // values["batch_size"] if values["val_batches"] else 0
    return Validations(batches, values["steps_per_eval"] if batches else 0)


def stock_epochs(fields: Sequence[int], batch_size: int, seed: int, drawn: Validations) -> Iterator[Batches]:
    """The epochs of ``mlx_lm.lora``.

    It sorts the rows by ``fields``, the number of fields of each, since that is the length of a row of its data set:
    rows of one form stay in the order of the file. Every ``batch_size`` neighbours are a batch, the same in all epochs,
    and the ``len % batch_size`` last rows are in none. The batches are shuffled by NumPy's legacy random state, from
    which every validation draws, too. seed: taken modulo 2^32, beyond which mlx-lm has none.
    """
    rows = sorted(range(len(fields)), key=fields.__getitem__)
    batches = [rows[i : i + batch_size] for i in range(0, len(rows) - batch_size + 1, batch_size)]
    state, step = np.random.RandomState(seed % 2**32), 1
    while True:
        yield [batches[number] for number in state.permutation(len(batches))]
        for number in range(step, step + len(batches)) if drawn.batches else ():
            if number == 1 or number % drawn.every == 0:
                state.permutation(drawn.batches)
        step += len(batches)


def epochs_by_length(lengths: Sequence[int], batch_size: int, seed: int) -> Iterator[Batches]:
    """Epochs of batches of like length, which pad least; an epoch depends on the seed and its number alone.

    The ``len % batch_size`` rows that fill no batch are others each time, until all had their turn.
    """
    left_out = len(lengths) % batch_size
    turns = np.random.default_rng(seed).permutation(len(lengths))
    for epoch in count():
        idle = set(np.take(turns, range(epoch * left_out, (epoch + 1) * left_out), mode="wrap").tolist())
        rows = sorted((row for row in range(len(lengths)) if row not in idle), key=lengths.__getitem__)
        batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        yield [batches[number] for number in np.random.default_rng((seed, epoch)).permutation(len(batches))]


class TrainingOrder:
    """``iterate_batches`` for mlx-lm's ``train``, from step ``start`` on as an uninterrupted run would have gone on.

    held_out: sequences of the validation set, from the number of which stock mlx-lm's order depends.
    """

    def __init__(self, config: TrainingConfig, held_out: int, start: int = 0) -> None:
        self._config, self._held_out, self._start = config, held_out, start

    def __call__(
        self, dataset: Tokens, batch_size: int, max_seq_length: int, loop: bool = False, **options: Any
    ) -> Iterator[Any]:
        batches = (rows for epoch in self._epochs(dataset, batch_size) for rows in epoch)
        for number, rows in enumerate(batches):
            if number >= self._start:
                yield from iterate_batches(_Rows(dataset, rows), batch_size, max_seq_length, **options)

    def _epochs(self, dataset: Tokens, batch_size: int) -> Iterator[Batches]:
        seed = self._config["seed"]
        if self._config["sort_by_length"]:
            return epochs_by_length(dataset.lengths, batch_size, seed)
        return stock_epochs(dataset.fields, batch_size, seed, validations(self._config, self._held_out))


def held_out_batches(by_length: bool) -> Callable[..., Iterator[Any]]:
    """``iterate_batches`` for mlx-lm's ``evaluate``: the batches that training would make, in the same order always."""

    def batches(dataset: Tokens, batch_size: int, max_seq_length: int, **options: Any) -> Iterator[Any]:
        sizes = dataset.lengths if by_length else dataset.fields
        order = np.random.RandomState(0).permutation(len(dataset) // batch_size)
        rows = sorted(range(len(dataset)), key=sizes.__getitem__)
        for number in order:
            one = _Rows(dataset, rows[number * batch_size : (number + 1) * batch_size])
            yield from iterate_batches(one, batch_size, max_seq_length, **options)

    return batches


class _Rows(CacheDataset):  # type: ignore[misc]  # mlx-lm has no types
    """Some rows of ``tokens``, in an order that mlx-lm keeps when it sorts them."""

    def __init__(self, tokens: Tokens, rows: Sequence[int]) -> None:
        self._tokens, self._rows = tokens, rows

    def itemlen(self, idx: int) -> int:
        return 0

    def __getitem__(self, idx: int) -> tuple[list[int], int]:
        return self._tokens[self._rows[idx]]

    def __len__(self) -> int:
        return len(self._rows)
