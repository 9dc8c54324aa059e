"""Training texts as mlx-lm reads them, tokenised, and the order in which batches of them come."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mlx_lm.tuner.datasets import load_dataset
from mlx_lm.tuner.trainer import iterate_batches

from ..data import bundled_names, read_corpus
from ..data.rows import read_rows
from ..errors import DataError, MissingExtraError, TrainingError
from ..routing.storage import write_aside
from .config import TrainingConfig

SPLITS = ("train", "valid", "test")
HELD_OUT = 8
"""Every so many-th bundled prompt is for validation."""


class Tokens:
    """Tokenised sequences, indexed as mlx-lm's ``iterate_batches`` does: (ids, where the loss begins).

    truncated: sequences that were cut to ``max_seq_length`` tokens.
    """

    def __init__(self, sequences: list[tuple[list[int], int]], max_seq_length: int) -> None:
        self.truncated = sum(len(ids) > max_seq_length for ids, _ in sequences)
        self._sequences = [(ids[:max_seq_length], offset) for ids, offset in sequences]

    def __getitem__(self, index: int) -> tuple[list[int], int]:
        return self._sequences[index]

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def n_tokens(self) -> int:
        """Tokens that are kept."""
        return sum(len(ids) for ids, _ in self._sequences)

    @property
    def largest_id(self) -> int:
        """The largest token id, -1 without any."""
        return max((max(ids) for ids, _ in self._sequences), default=-1)

    @property
    def sha256(self) -> str:
        """Of the ids and offsets in their order."""
        digest = hashlib.sha256()
        for ids, offset in self._sequences:
            digest.update(np.array([offset, len(ids), *ids], dtype=np.int64).tobytes())
        return digest.hexdigest()

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, 0 without any."""
        return max((len(ids) for ids, _ in self._sequences), default=0)


class TrainingOrder:
    """``iterate_batches`` for mlx-lm's ``train``, in an order that depends on the seed and the step alone.

    mlx-lm draws its order from NumPy's global state, which validation draws from too. Here every epoch is shuffled by
    (seed, epoch), so that a run that goes on at ``start`` sees what an uninterrupted one would have seen.
    """

    def __init__(self, seed: int, start: int = 0) -> None:
        self._seed, self._start = seed, start

    def __call__(
        self, dataset: Tokens, batch_size: int, max_seq_length: int, loop: bool = False, **options: Any
    ) -> Any:
        if not loop:  # validation: the same batches each time
            return in_order(dataset, batch_size, max_seq_length, **options)
        return self._forever(dataset, batch_size, max_seq_length, **options)

    def _forever(self, dataset: Tokens, batch_size: int, max_seq_length: int, **options: Any) -> Iterator[Any]:
        epoch, skip = divmod(self._start, len(dataset) // batch_size)
        while True:
            seed = (self._seed * 1_000_003 + epoch) % 2**32  # what numpy.random.seed takes
            batches = iterate_batches(dataset, batch_size, max_seq_length, seed=seed, **options)
            for number, batch in enumerate(batches):
                if number >= skip:
                    yield batch
            epoch, skip = epoch + 1, 0


def in_order(dataset: Tokens, batch_size: int, max_seq_length: int, **options: Any) -> Iterator[Any]:
    """mlx-lm's batches in an order that does not change."""
    options["seed"] = 0
    return iter(iterate_batches(dataset, batch_size, max_seq_length, **options))


def load_tokens(config: TrainingConfig, tokenizer: Any, step: Callable[[str, int, int], None]) -> dict[str, Tokens]:
    """{"train", "valid", "test": `Tokens`}; a split that is not there is empty.

    Raises DataError where the folder or a line cannot be read, where there are fewer training sequences than a batch
    has, or where a sequence has nothing to learn.
    """
    _check_readable(config)
    settings = types.SimpleNamespace(**{**config.values, "test": bool(config["test"])})
    try:
        splits = load_dataset(settings, tokenizer)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"The data set {config['data']}", "data") from error
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise DataError(f"mlx-lm cannot read the data set {config['data']}: {str(error).strip()}") from error
    found = {}
    for name, split in zip(SPLITS, splits, strict=True):
        sequences = []
        for row in range(len(split)):
            if row % 64 == 0:
                step(f"tokenising {name}", row, len(split))
            try:
                ids, offset = split.process(split[row])
            except IndexError:  # mlx-lm looks at the last token, and an empty text has none
                ids, offset = [], 0
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{name} row {row} of {config['data']} cannot be tokenised: {error}.") from error
            if len(ids) - offset < 2:
                raise DataError(
                    f"{name} row {row} of {config['data']} has fewer than 2 tokens to learn from; remove it."
                )
            sequences.append((list(ids), offset))
        found[name] = Tokens(sequences, config["max_seq_length"])
    return found


def check_sizes(config: TrainingConfig, data: dict[str, Tokens], model_settings: dict[str, Any], ranks: int) -> None:
    """Raise DataError or TrainingError where data, batch size and model do not fit together."""
    batch = config["batch_size"]
    if batch % ranks:
        raise TrainingError(
            f"batch_size is {batch}, which {ranks} ranks cannot share evenly; use a multiple of {ranks}."
        )
    if len(data["train"]) < batch:
        raise DataError(
            f"{config['data']} has {len(data['train'])} training sequences, fewer than batch_size = {batch}; give more "
            "text or a smaller --batch-size."
        )
    vocabulary, positions = (model_settings.get(key) for key in ("vocab_size", "max_position_embeddings"))
    for name, split in data.items():
        if vocabulary is not None and split.largest_id >= vocabulary:
            raise DataError(f"{name} has the token id {split.largest_id}, but the model knows {vocabulary} ids.")
        if positions is not None and split.longest - 1 > positions:
            raise DataError(
                f"A {name} sequence has {split.longest} tokens, but the model has {positions} positions: use "
                f"--max-seq-length {positions}."
            )


def bundled_folder(folder: Path) -> Path:
    """Write the bundled prompts as train.jsonl and valid.jsonl (every eighth prompt) into ``folder``."""
    documents = [d.text for name in bundled_names() for d in read_corpus(name).documents]
    held_out = [text for n, text in enumerate(documents) if n % HELD_OUT == 0]
    train = [text for n, text in enumerate(documents) if n % HELD_OUT]
    for name, texts in (("train", train), ("valid", held_out)):
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        write_aside({folder / f"{name}.jsonl": lines.encode()})
    return folder


def _check_readable(config: TrainingConfig) -> None:
    """Read a local folder's files once, for messages that name the line, which mlx-lm's do not."""
    data = config["data"]
    if config.values.get("hf_dataset"):
        return
    folder = Path(str(data)).expanduser()
    if not folder.is_dir():
        if folder.exists() or str(data).count("/") != 1 or str(data).startswith((".", "~", "/")):
            raise DataError(f"There is no folder {data} with train.jsonl and valid.jsonl in it.")
        return  # a hub id
    if not (folder / "train.jsonl").is_file():
        raise DataError(f"{folder} has no train.jsonl; write one JSON object with a text a line.")
    for name in SPLITS:
        if (path := folder / f"{name}.jsonl").is_file():
            for _ in read_rows(path):
                pass
