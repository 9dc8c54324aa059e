"""Text of several labelled domains: sequences of one domain each, and updates that hold as many of every domain."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from ..data import split_field
from ..data.corpus import Corpus, read_corpus
from ..data.files import is_known
from ..errors import DataError, TrainingError
from ..options import Reading, Step
from .text import Blocks, encoded

FEWEST = 2
"""Domains that can be told apart."""


def domains_of(folder: str | Path) -> dict[str, str]:
    """The domains of a folder, by name: every file of texts in it and every folder below it is one.

    Raises DataError where there are fewer than two.
    """
    place = Path(folder)
    if not place.is_dir():
        raise DataError(f"{place} is no folder; give one with a file or a folder for each domain.")
    inside = sorted(path for path in place.iterdir() if not path.name.startswith("."))
    found: dict[str, str] = {}
    for path in inside:
        if path.is_dir() or is_known(path):
            name = path.name if path.is_dir() else path.stem
            if name in found:
                raise DataError(
                    f"{place} has two domains {name!r}: {Path(found[name]).name} and {path.name}; rename one."
                )
            found[name] = str(path)
    check_domains(found, str(place))
    return found


def check_domains(domains: Mapping[str, str], where: str = "The data") -> None:
    """Raise DataError for fewer than two domains."""
    if len(domains) < FEWEST:
        names = f" ({', '.join(domains)})" if domains else ""
        raise DataError(
            f"{where} has {len(domains)} domain{'' if len(domains) == 1 else 's'}{names}; specialisation is a "
            "difference between domains: give two or more, each a file or a folder of its own."
        )


def read_domains(domains: Mapping[str, str], reading: Reading) -> dict[str, Corpus]:
    """The corpus of each domain; ``DATASET@FIELD`` has its own text field. Raises DataError for one without text."""
    made: dict[str, Corpus] = {}
    for name, data in domains.items():
        dataset, field = split_field(data)
        try:
            corpus = read_corpus(
                dataset,
                text_field=field or reading.text_field,
                max_samples=reading.max_samples,
                split_on=reading.split_on,
            )
        except DataError as error:
            how = " Of a domain that is --domain NAME=DATA@FIELD." if "--text-field" in str(error) else ""
            raise DataError(f"Domain {name!r}: {error}{how}") from error
        if not any(document.text.strip() for document in corpus.documents):
            raise DataError(f"Domain {name!r} ({data}) holds no text; give it some, or leave the domain out.")
        made[name] = corpus
    return made


@dataclass(frozen=True, eq=False)
class DomainBlocks(Blocks):
    """`Blocks` of one domain each. names: of the D domains; starts [N], labels [N]: first id and domain of every block.

    Every so many-th block of each domain is held out.
    """

    names: tuple[str, ...]
    starts: NDArray[np.int64]
    labels: NDArray[np.int64]

    @property
    def n_blocks(self) -> int:
        return len(self.starts)

    @property
    def train(self) -> NDArray[np.intp]:
        return np.flatnonzero(self._place() % self.held_out != 0)

    @property
    def valid(self) -> NDArray[np.intp]:
        return np.flatnonzero(self._place() % self.held_out == 0)

    def rows(self, blocks: NDArray[np.intp]) -> NDArray[np.int32]:
        rows: NDArray[np.int32] = self.ids[self.starts[blocks][:, None] + np.arange(self.length + 1)]
        return rows

    def domains(self, blocks: NDArray[np.intp]) -> NDArray[np.int64]:
        """[B] the domain of each block."""
        labels: NDArray[np.int64] = self.labels[blocks]
        return labels

    def of_domain(self, blocks: NDArray[np.intp], domain: int) -> NDArray[np.intp]:
        """Those of ``blocks`` that are of one domain."""
        inside: NDArray[np.intp] = blocks[self.labels[blocks] == domain]
        return inside

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256(super().sha256.encode())
        digest.update(self.starts.astype("<i8").tobytes() + self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def _place(self) -> NDArray[np.int64]:
        """[N] which block of its domain each is."""
        first = np.searchsorted(self.labels, np.arange(len(self.names)))
        place: NDArray[np.int64] = np.arange(self.n_blocks) - first[self.labels]
        return place


def pack_domains(
    corpora: Mapping[str, Corpus], tokenizer: PreTrainedTokenizerFast, length: int, held_out: int, step: Step
) -> DomainBlocks:
    """Every domain's documents one after the other, an end token behind each, in blocks that hold one domain.

    Raises DataError for a domain that does not fill two blocks.
    """
    ids: list[NDArray[np.int32]] = []
    starts: list[NDArray[np.int64]] = []
    labels: list[NDArray[np.int64]] = []
    before = 0
    for number, (name, corpus) in enumerate(corpora.items()):
        row = np.concatenate(list(encoded([corpus], tokenizer, step)))
        n = (len(row) - 1) // length
        if n < 2:
            raise DataError(
                f"Domain {name!r} has {len(row)} tokens, which is less than two sequences of {length}: one to train on "
                "and one to hold out; give it more text, or a smaller --seq-length."
            )
        ids.append(row)
        starts.append(before + np.arange(n, dtype=np.int64) * length)
        labels.append(np.full(n, number, dtype=np.int64))
        before += len(row)
    return DomainBlocks(
        np.concatenate(ids), length, held_out, tuple(corpora), np.concatenate(starts), np.concatenate(labels)
    )


class DomainOrder:
    """The order of a training on domains: every update has as many blocks of each, in an order of its own.

    Each domain goes through its own blocks, shuffled anew each time by seed, domain and number alone; the blocks of an
    update are shuffled, so that a micro-batch is of the domains that chance gives it.
    """

    def __init__(self, blocks: DomainBlocks, seed: int, batch_size: int) -> None:
        n, train = len(blocks.names), blocks.train
        self._of = [blocks.of_domain(train, domain) for domain in range(n)]
        self._seed, self._each = seed, batch_size // n
        self._shuffled: dict[int, tuple[int, NDArray[np.intp]]] = {}

    def batch(self, start: int, size: int) -> NDArray[np.intp]:
        """``size`` blocks of the update that begins at position ``start`` of all updates in a row."""
        update = start // size
        first = update * self._each
        chosen = [self._at(domain, first + n) for domain in range(len(self._of)) for n in range(self._each)]
        order = np.random.default_rng((self._seed, len(self._of), update)).permutation(len(chosen))
        return np.array(chosen)[order]

    def _at(self, domain: int, position: int) -> int:
        epoch, place = divmod(position, len(self._of[domain]))
        known = self._shuffled.get(domain)
        if known is None or known[0] != epoch:
            order = np.random.default_rng((self._seed, domain, epoch)).permutation(self._of[domain])
            known = self._shuffled[domain] = (epoch, order)
        return int(known[1][place])


class Repeats(NamedTuple):
    """How often a training sees a domain: blocks it has to train on, and times that each is seen."""

    blocks: int
    times: float


def repeats(blocks: DomainBlocks, batch_size: int, steps: int) -> dict[str, Repeats]:
    """`Repeats` of every domain in a training of so many updates."""
    train, each = blocks.train, batch_size // len(blocks.names)
    sizes = [len(blocks.of_domain(train, domain)) for domain in range(len(blocks.names))]
    return {name: Repeats(n, steps * each / n) for name, n in zip(blocks.names, sizes, strict=True)}


def check_repeats(blocks: DomainBlocks, batch_size: int, steps: int, most: float) -> None:
    """Raise TrainingError where domains cannot share an update evenly, or one is seen more than ``most`` times."""
    if batch_size % (n := len(blocks.names)):
        raise TrainingError(
            f"batch_size is {batch_size}, which {n} domains cannot share evenly; use a multiple of {n}."
        )
    of = repeats(blocks, batch_size, steps)
    name, worst = max(of.items(), key=lambda item: item[1].times)
    if worst.times > most:
        fits = int(most * worst.blocks * len(blocks.names) // batch_size)
        raise TrainingError(
            f"Domain {name!r} has {worst.blocks} sequences to train on and would be seen {worst.times:.1f} times, more "
            f"than {most:g}: give it more text, train {fits} --steps or fewer, or allow more by --most-repeats."
        )


def labels_of(blocks: Blocks, chosen: NDArray[np.intp]) -> NDArray[np.int64] | None:
    """[B] the domain of each of the ``chosen`` blocks, where they have one."""
    return blocks.domains(chosen) if isinstance(blocks, DomainBlocks) else None


def evenly(blocks: Blocks, most: int) -> NDArray[np.intp]:
    """The first ``most`` held-out blocks, of domains as many of each."""
    if not isinstance(blocks, DomainBlocks):
        return blocks.valid[:most]
    each = max(most // len(blocks.names), 1)
    return np.concatenate([blocks.of_domain(blocks.valid, d)[:each] for d in range(len(blocks.names))])
