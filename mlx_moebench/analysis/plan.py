"""What measuring a model will take: memory, bytes to read and time, resident or streamed, and what to run.

Arithmetic on shapes alone. Parameters and bytes of weights are exact; working memory is an estimate from above, and
times are ranges between the `analysis.rates` of slow and fast machines.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..checkpoints.described import PLAIN, Described
from ..checkpoints.shapes import WIDTH
from ..checkpoints.size import SLACK, Part, active, by_layer, by_role, held, total, widest
from ..families.settings import HEADS, value_of
from ..types import Json
from .rates import NETWORK, Machine, Rates, Span

ROOM = 0.25
"""The share of what streaming leaves of memory that hidden states may take before they go to disk."""

_STATES = 2
"""Generations of hidden states at once: what a block reads, and what it writes."""


class Work(NamedTuple):
    """What is to be measured: tokens in all, in batches of ``sequences`` of ``length`` tokens at most."""

    tokens: int
    sequences: int = 8
    length: int = 256

    @property
    def batch(self) -> int:
        """Tokens of one batch."""
        return min(self.tokens, self.sequences * self.length)

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return -(-self.tokens // self.batch)


class Holding(NamedTuple):
    """A model at one precision. dtype: of what is not packed, and of what is computed. flags: of the command line."""

    label: str
    dtype: str
    parts: Sequence[Part]
    flags: tuple[str, ...] = ()
    unpacks: bool = False
    """Whether the experts of a block are unpacked while it runs, as bitsandbytes' are."""

    @property
    def size(self) -> int:
        """Bytes of a number that is not packed."""
        return PLAIN[self.dtype]


@dataclass(frozen=True)
class Way:
    """One way to measure. All sizes in bytes. weights: held at once. working: activations of a batch. hidden, spilled:
    hidden states of all tokens in memory and on disk, of a streamed run. reads: from disk. seconds: reading and
    computing, from the fastest to the slowest machine of its kind."""

    how: str
    precision: str
    weights: int
    working: int
    hidden: int
    spilled: int
    reads: int
    seconds: Span
    usable: int
    command: str

    @property
    def memory(self) -> int:
        """Bytes needed at once."""
        return self.weights + self.working + self.hidden

    @property
    def fits(self) -> bool:
        """Whether that is no more than the machine gives."""
        return self.memory <= self.usable

    def to_dict(self) -> Json:
        """For JSON; every key says its unit."""
        return {
            "how": self.how,
            "precision": self.precision,
            "fits": self.fits,
            "memory_bytes": self.memory,
            "weights_bytes": self.weights,
            "working_bytes": self.working,
            "hidden_states_bytes": self.hidden,
            "spilled_bytes": self.spilled,
            "read_bytes": self.reads,
            "seconds": {"low": self.seconds.low, "high": self.seconds.high},
            "command": self.command,
        }


def parameters(parts: Sequence[Part], described: Described) -> Json:
    """Parameters of the whole model, those that one token uses, and those of each role."""
    roles = by_role(parts)
    embedding = roles.get("embedding", 0)
    return {
        "total": total(parts),
        "active_per_token": active(parts),
        "active_per_token_without_embedding": active(parts) - embedding,
        "by_role": {str(role): number for role, number in roles.items()},
    }


def stored_bytes(described: Described, as_stored: Holding) -> tuple[int, bool]:
    """(bytes of the weight files, whether headers or an index say so).

    Else those of the parameters at the precision that config.json names: 1 byte for each of float8, what MLX holds for
    its own forms and MX's, the dtype's otherwise.
    """
    if described.stored is not None:
        return described.stored, True
    packing = described.packing
    if packing is None:
        return total(as_stored.parts) * PLAIN[described.dtype], False
    if packing.method == "fp8":
        return total(as_stored.parts), False
    return held(as_stored.parts), False


def ways(
    described: Described,
    machine: Machine,
    holdings: Sequence[Holding],
    work: Work,
    *,
    stored: int,
    model: str,
    streams: bool,
    backend: Sequence[str] = (),
) -> list[Way]:
    """Every way to measure, the best first: unquantised before quantised, resident before streamed.

    holdings: the most precise first. stored: bytes of the weight files. streams: whether layers can be streamed.
    backend: flags of the command line that choose it.
    """
    first, *others = holdings
    found = [_resident(described, machine, first, work, stored, model, backend)]
    if streams:
        found.append(_streamed(described, machine, first, work, stored, model, backend))
    found += [_resident(described, machine, one, work, stored, model, backend) for one in others]
    if streams and recommended(found) is None:
        found += [_streamed(described, machine, one, work, stored, model, backend) for one in others]
    return found


def recommended(found: Iterable[Way]) -> Way | None:
    """The first that fits."""
    return next((way for way in found if way.fits), None)


def needed(described: Described, parts: Iterable[Part]) -> list[Part]:
    """What must be run to hear every router: all before the last sparse block, and of that no experts.

    MLX computes what is asked for: without logits neither the head nor the last block's experts.
    """
    parts = list(parts)
    last = max((part.layer for part in parts if part.role == "routers" and part.layer is not None), default=-1)
    behind = ("experts", "shared_experts", "dense")
    return [
        part
        for part in parts
        if (part.layer is None and part.role == "embedding")
        or (part.layer is not None and (part.layer < last or (part.layer == last and part.role not in behind)))
    ]


def working_bytes(described: Described, machine: Machine, holding: Holding, work: Work) -> int:
    """Activations of a batch, from above: input and output of every matrix of the largest block, K times for experts.

    On a CPU the attention scores, too, which no kernel there avoids: float32, before and after their softmax.
    """
    scores = 0
    if machine.kind == "cpu":
        heads = int(value_of(described.config, HEADS))
        scores = 2 * 4 * heads * work.batch * min(work.length, work.tokens)
    unpacked = 0
    if holding.unpacks:
        unpacked = max(
            sum(part.numbers * holding.size for part in parts if part.role == "experts")
            for parts in by_layer(holding.parts).values()
        )
    return round(SLACK * (work.batch * widest(holding.parts) * holding.size + scores)) + unpacked


def operations(parts: Iterable[Part], tokens: int) -> int:
    """Floating-point operations of the matrices: 2 for each parameter that a token uses. Attention scores left out."""
    return 2 * tokens * sum(part.active for part in parts if len(part.shape) > 1 and part.role != "embedding")


def seconds(rates: Rates, flops: int, traffic: int, reads: int) -> Span:
    """From all at once on the fastest machine to one after the other on the slowest.

    flops: operations. traffic: bytes of weights that go from memory to the processor. reads: bytes from disk.
    """
    compute, memory, disk = (amount / 1e9 for amount in (flops, traffic, reads))
    return Span(
        max(compute / rates.flops.high, memory / rates.memory.high, disk / rates.disk.high),
        compute / rates.flops.low + memory / rates.memory.low + disk / rates.disk.low,
    )


def download_seconds(size: int) -> Span:
    """Of so many bytes, over a fast and a slow line."""
    return Span(size / 1e9 / NETWORK.high, size / 1e9 / NETWORK.low)


def _resident(
    described: Described,
    machine: Machine,
    holding: Holding,
    work: Work,
    stored: int,
    model: str,
    backend: Sequence[str],
) -> Way:
    run = needed(described, holding.parts)
    traffic = work.batches * held(run)
    if holding.unpacks:  # written and read once more at full precision
        traffic += work.batches * 2 * holding.size * total(run)
    return Way(
        "resident",
        holding.label,
        held(holding.parts),
        working_bytes(described, machine, holding, work),
        0,
        0,
        stored,
        seconds(machine.rates, operations(run, work.tokens), traffic, stored),
        machine.usable,
        command(model, work, (*backend, *holding.flags)),
    )


def _streamed(
    described: Described,
    machine: Machine,
    holding: Holding,
    work: Work,
    stored: int,
    model: str,
    backend: Sequence[str],
) -> Way:
    """One block at a time: the largest, the embedding, and one array more, from which a held one is made."""
    run = needed(described, holding.parts)
    largest = max(held(parts) for parts in by_layer(run).values())
    weights = largest + held(part for part in run if part.role == "embedding") + max(part.nbytes for part in run)
    working = working_bytes(described, machine, holding, work)
    states = _STATES * work.tokens * int(value_of(described.config, WIDTH) or 0) * holding.size
    hidden = min(states, max(0, int(ROOM * (machine.usable - weights - working))))
    spilled = states - hidden
    reads = round(stored * held(run) / held(holding.parts))
    blocks = len(by_layer(run))
    traffic = work.batches * held(run)
    moved = blocks * spilled  # each block reads one generation and writes the other
    return Way(
        "streamed",
        holding.label,
        weights,
        working,
        hidden,
        spilled,
        reads,
        seconds(machine.rates, operations(run, work.tokens), traffic, reads + moved),
        machine.usable,
        command(model, work, (*backend, *holding.flags, "--stream", "on")),
    )


def command(model: str, work: Work, flags: Sequence[str]) -> str:
    """What to type."""
    sizes = []
    if work.length != Work(1).length:
        sizes += ["--max-length", str(work.length)]
    if work.sequences != Work(1).sequences:
        sizes += ["--batch-size", str(work.sequences)]
    return shlex.join(["mlx-moebench", "analyze", "--model", model, *flags, *sizes])
