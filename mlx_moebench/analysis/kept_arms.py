"""Arms that were run beside their reference, kept in a folder, so that the same call goes on after the last of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..checkpoints import find, read_adapter
from ..data import Dataset, read_corpus
from ..errors import StatsError
from ..files import check_regular, metadata_of, plain_name, write_aside
from ..options import Options
from ..pair.stats import RoutingStats
from ..pair.storage import save_pairs
from ..types import Facts, Json
from .arms import Arm
from .lockstep import Drift, arrays_of

Found = tuple[RoutingStats, RoutingStats, Drift]


class KeptArms:
    """In ``folder`` REFERENCE_ARM and ARM are stats pairs, and ARM.drift.safetensors what was compared of tokens.

    Raises `StatsError` for arms of another model, text or reading that are there already.
    """

    def __init__(self, folder: Path, model: Any, dataset: Dataset, options: Options) -> None:
        self._folder, self._plan = folder, options.plan
        located = find(model, None, options.loading.trust_remote_code, unquantised=True)
        weights = {path.name: path.stat().st_size for path in sorted(located.folder.glob("*.safetensors"))}
        adapter = options.loading.adapter_path
        corpus = read_corpus(dataset, **options.reading.of_corpus())
        self._made_of: Json = {
            "model": located.name,
            "revision": located.revision,
            "weights": weights,
            "dtype": options.loading.dtype,
            "adapter": None if adapter is None else read_adapter(adapter).facts,
            "data": corpus.sha256,
            "reading": {k: v for k, v in asdict(options.reading).items() if k != "batch_size"},
            "flag": asdict(options.flag),
        }

    def find(self, arm: Arm) -> Found | None:
        """What is kept of an arm; None where there is nothing."""
        reference, own, tokens = self._places(arm)
        if not tokens.exists():
            return None
        made_of = _made_of(tokens)
        if made_of != self._made_of:
            differ = ", ".join(key for key, value in self._made_of.items() if made_of.get(key) != value)
            raise StatsError(
                f"{tokens} is of another run (it differs in {differ}): choose another --output-dir, or remove it."
            )
        try:
            check_regular(tokens)
            with safe_open(tokens, framework="np") as file:
                drift = Drift(**{name: file.get_tensor(name) for name in Drift.__dataclass_fields__})
        except (OSError, SafetensorError) as error:
            raise StatsError(f"{tokens} cannot be read ({error}): remove it, and the arm is run again.") from error
        return RoutingStats.load(reference), RoutingStats.load(own), drift

    def keep(self, arm: Arm, reference: RoutingStats, own: RoutingStats, drift: Drift) -> None:
        """Write it, the tokens last: what is there is whole."""
        places = self._places(arm)
        save_pairs([(reference, places[0]), (own, places[1])], self._plan)
        write_aside({places[2]: save(arrays_of(drift), {"made_of": json.dumps(self._made_of)})})

    def _places(self, arm: Arm) -> tuple[Path, Path, Path]:
        name = plain_name(arm.name)
        return (
            self._folder / f"reference_{name}.json",
            self._folder / f"{name}.json",
            self._folder / f"{name}.drift.safetensors",
        )


def _made_of(tokens: Path) -> Facts:
    """What the file says it is made of; nothing where it is damaged."""
    try:
        content = json.loads(metadata_of(tokens)["made_of"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
