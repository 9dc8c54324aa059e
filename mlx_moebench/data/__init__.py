"""Text to route: bundled prompts, data sets from files or the hub, token sequences and padded batches.

Imports NumPy and the standard library only; a tokenizer is whatever object the caller passes in.
"""

from .corpus import Corpus, Dataset, Document, bundled_names, read_corpus, split_field
from .encode import (
    Batch,
    RowsOf,
    Sequence,
    batches,
    bos_policy,
    encode,
    encode_text,
    grouped,
    in_shard,
    pad_id,
    text_hashes,
)
from .memory import reusable

__all__ = [
    "Batch",
    "Corpus",
    "Dataset",
    "Document",
    "RowsOf",
    "Sequence",
    "batches",
    "bos_policy",
    "bundled_names",
    "encode",
    "encode_text",
    "grouped",
    "in_shard",
    "pad_id",
    "read_corpus",
    "reusable",
    "split_field",
    "text_hashes",
]
