"""Text for pretraining: a tokenizer, and one long row of tokens that is cut into blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from ..checkpoints import shortened
from ..checkpoints.foreign import FOREIGN
from ..data import bundled_names, read_corpus
from ..data.corpus import Corpus
from ..errors import DataError, TrainingError
from ..models import NANO
from ..options import Reading, Step

END = "<|endoftext|>"
"""The token that stands after every document, of a tokenizer that is trained here."""

BUNDLED = "bundled"
"""The data set of all prompts that ship with the package."""

_AT_A_TIME = 256


@dataclass(frozen=True, eq=False)
class Blocks:
    """Tokens in blocks of ``length`` + 1, each beginning with the last token of the one before.

    ids: [N] of all documents, with an end token after each. held_out: every so many-th block is for validation.
    """

    ids: NDArray[np.int32]
    length: int
    held_out: int

    @property
    def n_blocks(self) -> int:
        """How many whole blocks there are; what is left over is not used."""
        return (len(self.ids) - 1) // self.length

    @property
    def train(self) -> NDArray[np.intp]:
        """The blocks to train on."""
        every: NDArray[np.intp] = np.arange(self.n_blocks)
        train: NDArray[np.intp] = every[every % self.held_out != 0]
        return train

    @property
    def valid(self) -> NDArray[np.intp]:
        """The blocks that are held out."""
        return np.arange(0, self.n_blocks, self.held_out)

    def rows(self, blocks: NDArray[np.intp]) -> NDArray[np.int32]:
        """[B, length + 1] of the blocks of these numbers."""
        rows: NDArray[np.int32] = self.ids[blocks[:, None] * self.length + np.arange(self.length + 1)]
        return rows

    @property
    def sha256(self) -> str:
        """Of the ids and how they are cut."""
        digest = hashlib.sha256(self.ids.astype("<i4").tobytes())
        digest.update(f"{self.length} {self.held_out}".encode())
        return digest.hexdigest()


class Order:
    """The order of the blocks of a training: every block once an epoch, each epoch shuffled by seed and number alone.

    It depends neither on the router nor on how often it is stopped, so runs of one seed see the same text.
    """

    def __init__(self, blocks: NDArray[np.intp], seed: int) -> None:
        self._blocks, self._seed = blocks, seed
        self._epoch, self._order = -1, blocks

    def batch(self, start: int, size: int) -> NDArray[np.intp]:
        """``size`` blocks from position ``start`` of all epochs in a row."""
        return np.array([self._at(position) for position in range(start, start + size)])

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, len(self._blocks))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self._seed, epoch)).permutation(self._blocks)
        return int(self._order[place])


def read_texts(data: str, reading: Reading) -> list[Corpus]:
    """The data set, or all bundled prompts for ``bundled``. Raises DataError as `read_corpus` does."""
    names = bundled_names() if data == BUNDLED else [data]
    return [
        read_corpus(name, text_field=reading.text_field, max_samples=reading.max_samples, split_on=reading.split_on)
        for name in names
    ]


def train_tokenizer(corpora: list[Corpus], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of these texts, with ``<|endoftext|>`` as id 0.

    Raises TrainingError where the texts do not give so many tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size <= len(alphabet):
        raise TrainingError(f"vocab_size is {vocab_size}; bytes alone need {len(alphabet) + 1}.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator((document.text for corpus in corpora for document in corpus.documents), trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise TrainingError(
            f"The text gives a vocabulary of {tokenizer.get_vocab_size()} only, not of {vocab_size}; give more text or "
            "a smaller --vocab-size."
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def load_tokenizer(place: str | Path | None) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder, or a ``tokenizer.json`` of the library tokenizers; None for the embedded model's.

    Raises TrainingError where there is none, or it has no end-of-text token.
    """
    path = NANO if place is None else Path(place)
    try:
        if path.is_dir():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(path))
        else:
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
            tokenizer.eos_token = END if END in tokenizer.get_vocab() else None
    except FOREIGN as error:
        raise TrainingError(
            f"{path} is no tokenizer: give a folder with tokenizer.json, or such a file ({shortened(error)})."
        ) from error
    tokenizer.model_max_length = VERY_LARGE_INTEGER  # documents are cut into blocks: no warning
    if tokenizer.eos_token_id is None:
        raise TrainingError(
            f"The tokenizer in {path} names no end-of-text token; give its folder, with tokenizer_config.json, or "
            "train one with --vocab-size."
        )
    return tokenizer


def pack(corpora: list[Corpus], tokenizer: PreTrainedTokenizerFast, length: int, held_out: int, step: Step) -> Blocks:
    """Every document's tokens and an end token, one after the other. Raises DataError for less than two blocks."""
    ids = list(encoded(corpora, tokenizer, step))
    blocks = Blocks(np.concatenate(ids) if ids else np.zeros(0, np.int32), length, held_out)
    if not len(blocks.train) or not len(blocks.valid):
        raise DataError(
            f"The data has {len(blocks.ids)} tokens, which is less than two blocks of {length}: one to train on and "
            "one to hold out; give more text or a smaller --seq-length."
        )
    return blocks


def encoded(corpora: list[Corpus], tokenizer: PreTrainedTokenizerFast, step: Step) -> Iterator[NDArray[np.int32]]:
    """Of every document its tokens and an end token."""
    texts = [document.text for corpus in corpora for document in corpus.documents]
    for start in range(0, len(texts), _AT_A_TIME):
        step("tokenising", start, len(texts))
        for ids in tokenizer(texts[start : start + _AT_A_TIME], add_special_tokens=False)["input_ids"]:
            yield np.array([*ids, tokenizer.eos_token_id], np.int32)
