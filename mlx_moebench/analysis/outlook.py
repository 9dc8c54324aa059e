"""From a model's name to what measuring it will take: builds what `analysis.plan` counts on, without a weight."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from ..checkpoints.described import PLAIN, Described, describe
from ..checkpoints.size import Part, header_parts, held, packed_as
from ..errors import NO_MLX, ModelLoadError, MoebenchError, missing_package
from ..options import BITS, UNQUANTISED, Loading
from ..routing.record import PRECISE_ROUTER_BITS
from ..types import Json
from .plan import Holding, Way, Work, download_seconds, parameters, recommended, stored_bytes, ways
from .rates import GIB, Machine, apple, cpu, cuda

HOMES = {"mlx": "mlx_moebench.models.blueprint", "torch": "torch_fallback.blueprint"}
"""Of each backend the module with its ``parts``: the model as its library would hold it."""

GPUS = (24, 80)
"""GB of the GPUs that are asked about on torch where this machine has none."""


class Blueprint(Protocol):
    """A module that builds a model without its weights. NAME: how, in words."""

    NAME: str

    def parts(self, described: Described, loading: Loading, dtype: str) -> list[Part]:
        """Every parameter as a backend would hold it."""


class _Headers:
    """Where neither library is installed: shapes from the headers of the weight files, MLX's packing by arithmetic."""

    NAME = "the headers of the weights"

    def parts(self, described: Described, loading: Loading, dtype: str) -> list[Part]:
        if described.weights is None:
            raise MoebenchError(
                f"{NO_MLX} Without MLX and without transformers the headers of the weights are counted, and here "
                "is config.json alone."
            )
        specs = described.family.specs(described.config)
        found = header_parts(described.family, specs, described.weights, PLAIN[dtype])
        return _packed(found, loading, dtype)


class _Borrowed:
    """For MLX where it is not installed: shapes of transformers' model, MLX's packing by arithmetic."""

    def __init__(self, torch: Blueprint) -> None:
        self._torch = torch
        self.NAME = torch.NAME

    def parts(self, described: Described, loading: Loading, dtype: str) -> list[Part]:
        plain = Loading(backend="torch", dtype=loading.dtype)
        return _packed(self._torch.parts(described, plain, dtype), loading, dtype)


def _packed(found: list[Part], loading: Loading, dtype: str) -> list[Part]:
    if loading.bits is None and loading.router_bits in (None, UNQUANTISED):
        return found
    bits = loading.bits or UNQUANTISED
    routers = loading.router_bits or max(PRECISE_ROUTER_BITS, bits)
    if bits == UNQUANTISED:
        routers_alone = packed_as(found, routers, routers, PLAIN[dtype])
        return [new if old.role == "routers" else old for old, new in zip(found, routers_alone, strict=True)]
    return packed_as(found, bits, routers, PLAIN[dtype])


def outlook(model: str | None, loading: Loading, work: Work, memory: Sequence[float] = ()) -> Json:
    """Parameters, bytes and for each machine the ways to measure ``work`` and the one that is recommended.

    model: a folder, a config.json or a hub id, as for `checkpoints.described.describe`. memory: GB (2^30 bytes) of each
    machine that is asked about, a Mac or with ``torch`` a GPU; none asks about this one. Reads no weight. Raises as
    `describe` and as loading does.
    """
    described = describe(model)
    blueprint = blueprint_of(loading.backend)
    machines = [machine_with(gb, loading) for gb in memory] or these_machines(loading)
    plain = Loading(backend=loading.backend, device=loading.device, dtype=loading.dtype)
    as_stored = Holding("as stored", described.dtype, blueprint.parts(described, plain, described.dtype))
    stored, exact = stored_bytes(described, as_stored)
    return {
        "model": {
            "name": described.name,
            "model_type": described.config.get("model_type"),
            "revision": described.revision,
            "source": described.source,
            "counted_by": blueprint.NAME,
            "dtype": described.dtype,
            "packing": None if described.packing is None else described.packing.called,
        },
        "parameters": parameters(as_stored.parts, described),
        "routers": _routers(described, loading.backend),
        "bytes": {
            "stored": stored,
            "stored_from": "headers" if exact else "arithmetic",
            "download_seconds": download_seconds(stored)._asdict(),
            "resident": [
                {"precision": one.label, "dtype": one.dtype, "bytes": held(one.parts)}
                for one in _holdings(described, blueprint, loading, described.dtype)
            ],
        },
        "work": {
            "tokens": work.tokens,
            "batch_sequences": work.sequences,
            "max_length_tokens": work.length,
            "batches": work.batches,
        },
        "machines": [_machine(described, blueprint, loading, one, work, stored, model) for one in machines],
    }


def _routers(described: Described, backend: str) -> Json:
    specs = described.family.specs(described.config, torch=backend == "torch")
    experts = sorted({spec.n_experts for spec in specs})
    return {"count": len(specs), "experts": experts, "top_k": sorted({spec.top_k for spec in specs})}


def _machine(
    described: Described,
    blueprint: Blueprint,
    loading: Loading,
    machine: Machine,
    work: Work,
    stored: int,
    model: str | None,
) -> Json:
    dtype = loading.dtype or ("float32" if machine.kind == "cpu" else described.dtype)
    found = ways(
        described,
        machine,
        _holdings(described, blueprint, loading, dtype),
        work,
        stored=stored,
        model=_typed(model, described),
        streams=loading.backend == "mlx" and described.family.unstreamed(described.config) is None,
        backend=_backend(loading, machine),
    )
    best = recommended(found)
    rates = machine.rates
    return {
        "kind": machine.kind,
        "memory_bytes": machine.memory,
        "usable_bytes": machine.usable,
        "why": machine.why,
        "rates": {
            "flops_per_second": [1e9 * x for x in rates.flops],
            "memory_bytes_per_second": [1e9 * x for x in rates.memory],
            "disk_bytes_per_second": [1e9 * x for x in rates.disk],
            "source": rates.source,
        },
        "ways": [way.to_dict() for way in found],
        "recommended": None if best is None else best.to_dict(),
        "least_bytes": min(found, key=_memory).memory,
    }


def _memory(way: Way) -> int:
    return way.memory


def _holdings(described: Described, blueprint: Blueprint, loading: Loading, dtype: str) -> list[Holding]:
    """The precisions that are compared: those asked for, or else as stored and every one that is offered."""
    asked = loading.bits is not None or loading.router_bits is not None
    offered = (4,) if loading.backend == "torch" else sorted(BITS, reverse=True)
    every = [loading] if asked else [loading, *(_with_bits(loading, bits) for bits in offered)]
    if described.packing is not None and not asked:
        every = every[:1]
    return [
        Holding(
            _label(described, one, dtype),
            dtype,
            blueprint.parts(described, one, dtype),
            _flags(one),
            unpacks=one.backend == "torch" and one.bits is not None,
        )
        for one in every
    ]


def _with_bits(loading: Loading, bits: int) -> Loading:
    return Loading(loading.backend, loading.device, loading.dtype, bits)


def _label(described: Described, loading: Loading, dtype: str) -> str:
    if loading.bits is None and loading.router_bits in (None, UNQUANTISED):
        return dtype if described.packing is None else f"as stored ({described.packing.called})"
    if loading.backend == "torch":
        return f"NF4, routers {dtype}"
    weights = dtype if loading.bits is None else f"{loading.bits} bit"
    routers = loading.router_bits or max(PRECISE_ROUTER_BITS, loading.bits or 0)
    return f"{weights}, routers {dtype if routers == UNQUANTISED else f'{routers} bit'}"


def _flags(loading: Loading) -> tuple[str, ...]:
    flags: tuple[str, ...] = () if loading.dtype is None else ("--dtype", loading.dtype)
    if loading.bits is not None:
        flags += ("--4bit",) if loading.backend == "torch" else ("--bits", str(loading.bits))
    return flags if loading.router_bits is None else (*flags, "--router-bits", str(loading.router_bits))


def _backend(loading: Loading, machine: Machine) -> tuple[str, ...]:
    flags = ("--backend", "torch") if loading.backend == "torch" else ()
    if loading.device != "auto":
        return (*flags, "--device", loading.device)
    return (*flags, "--device", "cuda") if loading.backend == "torch" and machine.kind == "cuda_gpu" else flags


def _typed(model: str | None, described: Described) -> str:
    """The name under which the model is loaded: the folder of a config.json that was named."""
    if model is None:
        return described.name
    path = Path(model)
    return str(path.parent) if path.suffix == ".json" and path.is_file() else model


def blueprint_of(backend: str) -> Blueprint:
    """What builds models for ``backend``: its library, or where that is missing the other, or headers alone."""
    for name in dict.fromkeys((backend, "torch")):
        try:
            module: Blueprint = import_module(HOMES[name])
        except ImportError as error:
            if missing_package(error) is None:
                raise
            if backend == "torch":
                raise ModelLoadError('transformers is not installed: pip install "mlx-moebench[torch]".') from error
            continue
        return module if name == backend else _Borrowed(module)
    return _Headers()


def machine_with(gb: float, loading: Loading) -> Machine:
    """A machine with so many GB of 2^30 bytes: a Mac, with torch or --device cuda a GPU, with --device cpu neither."""
    memory = round(gb * GIB)
    if loading.device == "cpu":
        return cpu(memory, os.cpu_count() or 1)
    if loading.device == "cuda" or (loading.backend == "torch" and loading.device != "mps"):
        return cuda(memory)
    return apple(memory)


def these_machines(loading: Loading) -> list[Machine]:
    """This machine; with torch and without a GPU here, those of `GPUS`."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    own = cpu(memory, os.cpu_count() or 1)
    if loading.device == "cpu":
        return [own]
    if loading.backend == "torch":
        if (found := _torch_memory()) is not None:
            return [cuda(found)]
        if platform.system() == "Darwin":
            return [apple(memory)]
        return [cuda(gb * GIB) for gb in GPUS]
    try:
        from ..models import device_facts
    except ImportError:
        return [own]
    facts = device_facts()
    if facts["device"] == "cpu":
        return [own]
    known = facts.get("gpu_memory_gb")
    if platform.system() == "Darwin":
        return [apple(memory, None if known is None else round(known * GIB))]
    return [cuda(round((known or 0) * GIB))]


def _torch_memory() -> int | None:
    """Bytes of the GPU that torch sees; None without one, or without torch."""
    try:
        found: int | None = import_module(HOMES["torch"]).gpu_memory()
    except ImportError:
        return None
    return found
