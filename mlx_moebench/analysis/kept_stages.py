"""Checkpoints of a series that were measured, kept in a folder, so that the same call goes on after the last one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..checkpoints.hub import local_folder
from ..data import Dataset, read_corpus
from ..errors import StatsError
from ..files import check_regular, metadata_of, plain_name, write_aside
from ..options import Options
from ..pair.stats import RoutingStats
from ..pair.storage import save_pairs
from ..types import HostArray, Json
from .checkpoints import Stage, folder_of

Found = tuple[RoutingStats, tuple[HostArray, ...], HostArray, HostArray, HostArray]


class KeptStages:
    """In ``folder`` NAME is the stats pair of a checkpoint, and NAME.choices.safetensors what it chose of each token.

    Raises `StatsError` for those of another model, text or reading that are there already.
    """

    def __init__(self, folder: Path, dataset: Dataset, options: Options) -> None:
        self._folder, self._plan = folder, options.plan
        corpus = read_corpus(dataset, **options.reading.of_corpus())
        loading = {k: v for k, v in asdict(options.loading).items() if k not in ("device", "stream", "stream_memory")}
        self._made_of: Json = {
            "data": corpus.sha256,
            "loading": {k: None if v is None else str(v) for k, v in loading.items()},
            "reading": asdict(options.reading),
            "flag": asdict(options.flag),
        }

    def find(self, stage: Stage) -> Found | None:
        """What is kept of a checkpoint; None where there is nothing."""
        pair, tokens = self._places(stage)
        if not tokens.exists():
            return None
        made_of, wanted = self._read_facts(tokens), self._facts(stage)
        if made_of != wanted:
            differ = ", ".join(key for key, value in wanted.items() if made_of.get(key) != value)
            raise StatsError(
                f"{tokens} is of another run (it differs in {differ}): choose another --output-dir, or remove it."
            )
        try:
            check_regular(tokens)
            with safe_open(tokens, framework="np") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        except (OSError, SafetensorError) as error:
            raise StatsError(f"{tokens} cannot be read ({error}): remove it, and it is measured again.") from error
        experts = tuple(arrays[f"experts.{number}"] for number in range(len(arrays["similarity"])))
        return RoutingStats.load(pair), experts, arrays["rows"], arrays["lengths"], arrays["similarity"]

    def keep(
        self,
        stage: Stage,
        stats: RoutingStats,
        experts: tuple[HostArray, ...],
        rows: HostArray,
        lengths: HostArray,
        similarity: HostArray,
    ) -> None:
        """Write it, the tokens last: what is there is whole."""
        pair, tokens = self._places(stage)
        arrays = {f"experts.{number}": np.ascontiguousarray(one) for number, one in enumerate(experts)}
        arrays |= {"rows": rows, "lengths": lengths, "similarity": similarity}
        save_pairs([(stats, pair)], self._plan)
        write_aside({tokens: save(arrays, {"made_of": json.dumps(self._facts(stage), sort_keys=True)})})

    def _facts(self, stage: Stage) -> Json:
        folder = local_folder(folder_of(stage))
        assert folder is not None
        files = sorted(folder.glob("*.safetensors"))
        return self._made_of | {"weights": {p.name: [p.stat().st_size, p.stat().st_mtime_ns] for p in files}}

    def _places(self, stage: Stage) -> tuple[Path, Path]:
        name = plain_name(stage.name)
        return self._folder / f"{name}.json", self._folder / f"{name}.choices.safetensors"

    @staticmethod
    def _read_facts(tokens: Path) -> Json:
        """What the file says it is made of; nothing where it is damaged."""
        try:
            content: Any = json.loads(metadata_of(tokens)["made_of"])
        except (KeyError, TypeError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}
