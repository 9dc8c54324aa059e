"""Training texts as mlx-lm reads them, tokenised."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mlx_lm.tuner.datasets import create_dataset, load_dataset

from ..checkpoints import shortened
from ..data import bundled_names, read_corpus
from ..data.fields import renders_chat
from ..data.files import read_rows
from ..data.rows import Row
from ..errors import DataError, MissingExtraError, RenamedError, TrainingError, missing_package
from ..families.settings import VOCABULARY, value_of
from ..files import check_ours, read_bytes, write_aside
from ..options import Step
from ..types import Facts, Json, Tokenizer
from .config import TrainingConfig

SPLITS = ("train", "valid", "test")
_FEATURES = {
    "prompt_feature": "prompt",
    "completion_feature": "completion",
    "chat_feature": "messages",
    "text_feature": "text",
}
HELD_OUT = 8
"""Every so many-th bundled prompt is for validation."""


class Tokens:
    """Tokenised sequences, indexed as mlx-lm's ``iterate_batches`` does: (ids, where the loss begins).

    fields: of each sequence, how many fields its row has; mlx-lm sorts by it. truncated: sequences that were cut to
    ``max_seq_length`` tokens.
    """

    def __init__(self, sequences: list[tuple[list[int], int]], fields: list[int], max_seq_length: int) -> None:
        self.fields = fields
        self.truncated = sum(len(ids) > max_seq_length for ids, _ in sequences)
        self._sequences = [(ids[:max_seq_length], offset) for ids, offset in sequences]

    def __getitem__(self, index: int) -> tuple[list[int], int]:
        return self._sequences[index]

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence that are kept."""
        return [len(ids) for ids, _ in self._sequences]

    @property
    def n_tokens(self) -> int:
        """Tokens that are kept."""
        return sum(self.lengths)

    @property
    def largest_id(self) -> int:
        """The largest token id, -1 without any."""
        return max((max(ids) for ids, _ in self._sequences), default=-1)

    @property
    def sha256(self) -> str:
        """Of the ids, offsets and numbers of fields in their order."""
        digest = hashlib.sha256()
        for (ids, offset), fields in zip(self._sequences, self.fields, strict=True):
            digest.update(np.array([offset, fields, len(ids), *ids], dtype=np.int64).tobytes())
        return digest.hexdigest()

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, 0 without any."""
        return max(self.lengths, default=0)


def load_tokens(config: TrainingConfig, tokenizer: Tokenizer, step: Step) -> dict[str, Tokens]:
    """{"train", "valid", "test": `Tokens`}; a split that is not there is empty.

    Raises DataError where the folder or a line cannot be read, or where a sequence has nothing to learn.
    """
    tokens = {}
    for name, (split, places) in zip(SPLITS, _splits(config, tokenizer), strict=True):
        sequences, fields = [], []
        for row in range(len(split)):
            if row % 64 == 0:
                step(f"tokenising {name}", row, len(split))
            where = places[row] if places else f"{config['data']}, {name} row {row}"
            ids, offset = _tokenised(split, row, where)
            if config["mask_prompt"] and ids and not offset:
                raise RenamedError("mlx_lm", "mask_prompt among the settings of create_dataset", "--mask-prompt needs")
            _check_learnable(ids, offset, config["max_seq_length"], where)
            sequences.append((ids, offset))
            fields.append(len(split[row]))
        tokens[name] = Tokens(sequences, fields, config["max_seq_length"])
    if config["test"] and not len(tokens["test"]):
        raise DataError(f"{config['data']} has no test set, which --test needs; add test.jsonl, or leave out --test.")
    return tokens


def text_field(config: TrainingConfig, row: Facts) -> str | None:
    """The field, or two joined by ``+``, that mlx-lm trains on in data with such a row; None for one it cannot read."""
    prompt, completion, chat, text = (config.values.get(key) or usual for key, usual in _FEATURES.items())
    if prompt in row and completion in row:
        return f"{prompt}+{completion}"
    return next((field for field in (chat, text) if field in row), None)


def _splits(config: TrainingConfig, tokenizer: Tokenizer) -> list[tuple[Any, list[str]]]:
    """mlx-lm's data set of each split, and where its rows come from, if a message can say it better than by number."""
    settings = types.SimpleNamespace(**config.values)
    data = config["data"]
    try:
        if not config.values.get("hf_dataset") and (folder := _folder(data)) is not None:
            return [_local(folder / f"{name}.jsonl", settings, config, tokenizer) for name in SPLITS]
        with silent():
            return [(split, []) for split in load_dataset(settings, tokenizer)]
    except ModuleNotFoundError as error:
        if missing_package(error) != "datasets":
            raise
        raise MissingExtraError(f"The data set {data}", "data") from error
    except (ValueError, KeyError, IndexError, TypeError, OSError) as error:
        name = data if not config.values.get("hf_dataset") else "in hf_dataset"
        raise DataError(f"mlx-lm cannot read the data set {name}: {shortened(error)}.") from error


def _local(path: Path, settings: Any, config: TrainingConfig, tokenizer: Tokenizer) -> tuple[Any, list[str]]:
    """A file's rows, read as everywhere in this package, for messages that name the line."""
    rows = list(read_rows(path)) if path.is_file() else []
    if not rows:
        if path.stem == "train":
            raise DataError(f"{path} has no text; write one JSON object with a text a line.")
        return [], []
    _check_fields(rows, config, tokenizer)
    return create_dataset([dict(row.values) for row in rows], tokenizer, settings), [row.where for row in rows]


def _check_fields(rows: list[Row], config: TrainingConfig, tokenizer: Tokenizer) -> None:
    """Raise DataError where the rows of a file are not what mlx-lm trains on; the first decides, as in mlx-lm."""
    first = rows[0]
    field, chat = text_field(config, first.values), config.values.get("chat_feature") or "messages"
    if field is None:
        raise DataError(
            f"{first.where} has the fields {sorted(first.values)}, but mlx-lm trains on text, on messages, or on "
            "prompt and completion; rename a field, or name it with text_feature."
        )
    is_text = field != chat and "+" not in field
    if is_text and config["mask_prompt"]:
        raise DataError(
            f"{first.where} has no prompt, which --mask-prompt needs: give prompt and completion, or messages."
        )
    if not is_text and not renders_chat(tokenizer):
        raise DataError(
            f"{first.where} needs a tokenizer with a chat template, and the model has none; give rows with a text."
        )
    for row in rows if field != chat else ():
        for name in field.split("+"):
            if not isinstance(row.values.get(name, ""), str):
                raise DataError(f"{row.where}: {name} is {row.values[name]!r}; give a text, or remove the line.")


def _tokenised(split: Any, row: int, where: str) -> tuple[list[int], int]:
    """(ids, where the loss begins) of a row, by mlx-lm."""
    from jinja2 import TemplateError

    try:
        ids, offset = split.process(split[row])
    except IndexError:  # mlx-lm looks at the last token, and an empty text has none
        return [], 0
    except KeyError as error:
        raise DataError(f"{where} lacks the field {error}.") from error
    except (TemplateError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{where} cannot be tokenised ({shortened(error, 160)}); correct or remove it.") from error
    return list(ids), offset


def _check_learnable(ids: list[int], offset: int, max_seq_length: int, where: str) -> None:
    first = max(offset, 1)  # nothing foretells the first token
    if len(ids) <= first:
        raise DataError(f"{where} has no token to learn{' after its prompt' if offset else ''}; remove it.")
    if max_seq_length <= first:
        raise DataError(
            f"{where} has a prompt of {offset} tokens, which leaves nothing to learn in {max_seq_length}; remove it, "
            "or raise --max-seq-length."
        )


def check_sizes(config: TrainingConfig, data: dict[str, Tokens], model_settings: Json, ranks: int) -> None:
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
    vocabulary, positions = value_of(model_settings, VOCABULARY), model_settings.get("max_position_embeddings")
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
        _write(folder / f"{name}.jsonl", lines.encode())
    return folder


def _write(path: Path, lines: bytes) -> None:
    check_ours(path, "file of bundled prompts", lambda: read_bytes(path) == lines)
    write_aside({path: lines})


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep mlx-lm's own progress off stdout, where results go."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _folder(data: str) -> Path | None:
    """The local folder ``data``, None where it is a hub id. Raises DataError where it is neither."""
    folder = Path(data)
    if folder.is_dir():
        if not (folder / "train.jsonl").is_file():
            raise DataError(f"{folder} has no train.jsonl; write one JSON object with a text a line.")
        return folder
    if folder.exists() or data.count("/") != 1 or data.startswith((".", "~", "/")):
        raise DataError(f"There is no folder {data} with train.jsonl and valid.jsonl in it.")
    return None
