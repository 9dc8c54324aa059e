"""Does another backend route alike? One model and one data set on each, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Unpack

import numpy as np

from ..data import Batch, Dataset, reusable
from ..errors import MoebenchError, RoutingError
from ..measure.backends import HOMES, Backend, backend_named, check_alone
from ..measure.run import measure
from ..options import Choices, Options, Step, quiet_step
from ..pair.stats import RoutingStats
from ..routing.record import Array, Mask, Routing
from ..routing.recorder import Recorder
from ..routing.tokens import TokenBlock
from ..types import HostArray, Json

TOLERANCE = 1e-5
"""Largest difference of a mean (nats, probability) or of a marginal probability that counts as rounding."""

TIE = 1e-5
"""A token whose lowest chosen and best unchosen score lie closer than this may choose otherwise by rounding."""

MOST_TIES = 1e-4
"""Largest share of a router's tokens that may do so."""

VALUES = ("mean_entropy", "topk_entropy", "margin_prob", "margin_weight", "selection_margin")
"""The metrics that are compared, beside counts and marginal distributions."""

LISTED = 20
"""Tokens with another choice that are listed for a router, at most; all are counted."""

NUMPY = "numpy"
DEVICES = ("cpu", "gpu", "cuda", "mps")


@dataclass(frozen=True)
class Choice:
    """A token for which two backends chose other experts. margin: between its lowest chosen and best unchosen score."""

    row: int
    position: int
    margin: float
    a: tuple[int, ...]
    b: tuple[int, ...]


@dataclass(frozen=True)
class RouterParity:
    """One router on two backends.

    moved: selections that went to another expert, over all tokens; 0 where the counts are equal. other: tokens with
    another set of experts. ties: those of them whose margin is below `TIE`. choices: the first of ``other``.
    differences: of `VALUES`, and of the marginal distribution (the largest of any expert), absolute.
    """

    layer: int
    router: str
    n_tokens: int
    moved: int
    other: int
    ties: int
    choices: list[Choice]
    differences: dict[str, float]

    @property
    def equal(self) -> bool:
        """Nothing differs but by rounding."""
        ties_only = self.other == self.ties <= MOST_TIES * self.n_tokens
        return ties_only and all(d <= TOLERANCE for d in self.differences.values())


@dataclass(frozen=True)
class Parity:
    """Backend ``b`` against ``a``, router by router."""

    a: str
    b: str
    routers: list[RouterParity]

    @property
    def equal(self) -> bool:
        return all(router.equal for router in self.routers)

    def to_dict(self) -> Json:
        """For JSON: the fields, and whether each router is equal."""
        routers = [asdict(router) | {"equal": router.equal} for router in self.routers]
        return {"a": self.a, "b": self.b, "equal": self.equal, "routers": routers}


def parity(
    model: Any = None,
    dataset: Dataset = "math",
    backends: Sequence[str] = ("mlx", "torch", NUMPY),
    *,
    step: Step = quiet_step,
    **choices: Unpack[Choices],
) -> tuple[list[Parity], RoutingStats]:
    """Every backend after the first against it, and the statistics of the first.

    backends: ``mlx``, ``torch``, either with a device (``mlx-gpu``, ``mlx-cpu``, ``torch-cuda``), and ``numpy``: what
    the first of the others gave, reduced by NumPy in float64. model: a folder, a hub id or None. The other keywords are
    those of `analyze`. Raises `MoebenchError` for names that are none, or fewer than two.
    """
    return measure_parity(model, dataset, backends, Options.of(choices), step)


def measure_parity(
    model: Any, dataset: Dataset, backends: Sequence[str], options: Options, step: Step = quiet_step
) -> tuple[list[Parity], RoutingStats]:
    """`parity` with its options made."""
    names = list(dict.fromkeys(name.strip() for name in backends))
    for name in names:
        _parsed(name)
    if len(names) < 2:
        raise MoebenchError("Parity needs two backends or more, such as --backends mlx,torch,numpy.")
    if names[0] == NUMPY:
        names = [*names[1:], NUMPY]  # it has no model of its own
    dataset = reusable(dataset)
    measured: list[tuple[str, RoutingStats, _Tokens]] = []
    for name in names:
        library, device = _parsed(names[0] if name == NUMPY else name)
        runner: Any = backend_named(library)
        check_alone(runner, "Backends are compared token by token")
        tokens = _Tokens()

        def named(what: str, done: int, total: int, name: str = name) -> None:
            step(f"{name}: {what}", done, total)

        runner = OnNumPy(runner) if name == NUMPY else runner
        one = replace(options, loading=replace(options.loading, device=device))
        stats = measure(model, dataset, one, runner=runner, watch=tokens, step=named).stats["prefill"]
        measured.append((name, stats, tokens))
    first = measured[0]
    return [_compared(first, other) for other in measured[1:]], first[1]


class OnNumPy:
    """A `Backend` that runs models with another one and counts in NumPy, in float64: the reference of the tally."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.recorder = _in_numpy(inner.recorder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def facts(self, checkpoint: Any) -> Json:
        """With the backend numpy."""
        return self._inner.facts(checkpoint) | {"backend": NUMPY}


def _in_numpy(base: Any) -> Any:
    class NumPyRecorder(base):  # type: ignore[misc]
        def routing_of(self, number: int, logits: Array, indices: Array, mask: Mask) -> Routing:
            record: Routing = super().routing_of(number, logits, indices, mask)
            floats = {name: getattr(record, name) for name in ("logits", "weights", "selection")}
            host = super().host
            doubles = {name: host(a).astype(np.float64) for name, a in floats.items() if a is not None}
            return replace(record, **doubles, indices=host(record.indices), mask=mask)

        def evaluate(self, arrays: Sequence[Array]) -> bool:
            return True

        def host(self, array: Array) -> HostArray:
            return np.asarray(array)

        def near(self, array: Array, other: Array) -> Array:
            return array

    return NumPyRecorder


@dataclass
class _Tokens:
    """A `Watch` that keeps what every token chose, in the order of the batches, which is the same on every backend."""

    logits: bool = False
    ids: list[HostArray] = field(default_factory=list)
    rows: list[HostArray] = field(default_factory=list)
    positions: list[HostArray] = field(default_factory=list)
    experts: dict[int, list[HostArray]] = field(default_factory=dict)
    margins: dict[int, list[HostArray]] = field(default_factory=dict)

    def begin(self, tokenizer: Any) -> None:
        """Texts are not needed."""

    def record(self, block: TokenBlock) -> None:
        chosen = np.sort(block.experts[block.mask], axis=-1)
        self.experts.setdefault(block.number, []).append(chosen.astype(np.int32))
        self.margins.setdefault(block.number, []).append(block.scalars["selection_margin"][block.mask])

    def count(self, batch: Batch, ids: HostArray, stats: Recorder, logits: Any) -> None:
        rows, columns = np.nonzero(batch.mask)
        self.ids.append(ids[batch.mask])
        self.rows.append(np.asarray(batch.rows)[rows])
        self.positions.append(columns)


def _compared(a: tuple[str, RoutingStats, _Tokens], b: tuple[str, RoutingStats, _Tokens]) -> Parity:
    (name_a, stats_a, tokens_a), (name_b, stats_b, tokens_b) = a, b
    if not np.array_equal(np.concatenate(tokens_a.ids), np.concatenate(tokens_b.ids)):
        raise RoutingError(f"{name_a} and {name_b} were given other token ids: their tokenizers differ.")
    rows, positions = (np.concatenate(x) for x in (tokens_a.rows, tokens_a.positions))
    routers = []
    for number, spec in enumerate(stats_a.specs):
        chosen_a, chosen_b = (np.concatenate(t.experts[number]) for t in (tokens_a, tokens_b))
        margin = np.concatenate(tokens_a.margins[number])
        other = np.flatnonzero((chosen_a != chosen_b).any(axis=-1))
        total_a, total_b = stats_a.totals(number), stats_b.totals(number)
        values_a, values_b = stats_a.values(number), stats_b.values(number)
        differences = {name: _difference(values_a, values_b, name) for name in VALUES}
        differences["marginal"] = float(np.abs(total_a.mean_p - total_b.mean_p).max())
        routers.append(
            RouterParity(
                layer=spec.layer,
                router=spec.router,
                n_tokens=int(total_a.n_tokens),
                moved=int(np.abs(total_a.counts - total_b.counts).sum()) // 2,
                other=len(other),
                ties=int((margin[other] < TIE).sum()),
                choices=[
                    Choice(
                        int(rows[t]),
                        int(positions[t]),
                        float(margin[t]),
                        tuple(map(int, chosen_a[t])),
                        tuple(map(int, chosen_b[t])),
                    )
                    for t in other[:LISTED]
                ],
                differences=differences,
            )
        )
    return Parity(name_a, name_b, routers)


def _difference(a: Mapping[str, float], b: Mapping[str, float], name: str) -> float:
    """0 where a metric is undefined on both."""
    if np.isnan(a[name]) and np.isnan(b[name]):
        return 0.0
    return abs(a[name] - b[name])


def _parsed(name: str) -> tuple[str, str]:
    """(backend, device) of ``mlx``, ``torch-cuda``, ...; (``numpy``, ``auto``) of numpy."""
    library, dash, device = name.partition("-")
    if name == NUMPY:
        return NUMPY, "auto"
    if library not in HOMES or (dash and device not in DEVICES):
        raise MoebenchError(
            f"There is no backend {name!r}: choose from {', '.join(HOMES)} and {NUMPY}, the first with a device if you "
            f"like ({', '.join(f'-{d}' for d in DEVICES)}), such as --backends mlx-gpu,mlx-cpu."
        )
    return library, device or "auto"
