"""How much memory a machine gives to a model, and how fast machines of its kind are: ranges, and where they are from.

Nothing here was measured on the machine that is asked about. A range runs from the slowest to the fastest of its kind
that was found, so that a time has the right number of digits, and no more.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

GIB = 2**30

Kind = Literal["apple_gpu", "cuda_gpu", "cpu"]


class Span(NamedTuple):
    """From the slowest to the fastest, of 10^9 a second."""

    low: float
    high: float


class Rates(NamedTuple):
    """flops: 10^9 operations a second in the products of a prompt. memory, disk: 10^9 bytes a second."""

    flops: Span
    memory: Span
    disk: Span
    source: str


APPLE = Rates(
    Span(2_000, 16_000),
    Span(100, 800),
    Span(1, 6),
    "prompts in MLX: 615 tokens/s of Qwen3-4B on an M3 Pro (mlx-lm pull request 1569, 4.4 TFLOP/s), 1,732 of "
    "Qwen3-30B-A3B on an M4 Max (pull request 406, 9 TFLOP/s), 2,757 of Qwen3.5-35B-A3B on an M5 Max (16 TFLOP/s); "
    "half of the least for the smallest chips",
)
"""The speeds are of 4-bit weights, which a prompt of many tokens computes as unpacked ones."""

_SMALL_GPU = Rates(
    Span(3_500, 66_000),
    Span(600, 1_800),
    Span(0.5, 6),
    "5% to 40% of the makers' dense bfloat16 peak, 71 (RTX 3090) to 165 (RTX 4090) TFLOP/s; assumed, not measured",
)
_LARGE_GPU = Rates(
    Span(15_000, 400_000),
    Span(1_500, 4_800),
    Span(0.5, 6),
    "5% to 40% of the dense bfloat16 peak by the makers, 312 (A100) to 990 (H100) TFLOP/s; assumed, not measured",
)
_LARGE = 40 * GIB

_CPU_CORE = Span(2.7, 45)
_CPU = "two x86 cores in float32: 5.4 GFLOP/s with MLX's own expert kernel, 90 in grouped products (docs/benchmarks.md)"

NETWORK = Span(0.01, 0.1)
"""Of a download, 10^9 bytes a second."""


class Machine(NamedTuple):
    """memory: bytes in all. usable: bytes that model and work may take. why: what that rests on."""

    kind: Kind
    memory: int
    usable: int
    why: str
    cores: int = 1

    @property
    def rates(self) -> Rates:
        """What machines of its kind do."""
        if self.kind == "apple_gpu":
            return APPLE
        if self.kind == "cuda_gpu":
            return _LARGE_GPU if self.memory > _LARGE else _SMALL_GPU
        return Rates(
            Span(_CPU_CORE.low * min(self.cores, 2), _CPU_CORE.high * self.cores), Span(5, 100), Span(0.1, 3), _CPU
        )


def apple(memory: int, working_set: int | None = None) -> Machine:
    """A Mac with ``memory`` bytes, of which Metal lets the GPU hold a share.

    working_set: Metal's ``recommendedMaxWorkingSetSize``, where it is known. Else the share that programs print on Macs
    of all sizes: 2/3 up to 32 GB (10,923 MiB of 16 GB, 21,845 of 32) and 3/4 above (49,152 MiB of 64 GB; llama.cpp
    issue 1870, ollama issue 434). ``sudo sysctl iogpu.wired_limit_mb=N`` raises it until the next start.
    """
    if working_set is not None:
        return Machine("apple_gpu", memory, working_set, "Metal's recommended working set")
    large = memory > 34 * GIB
    usable = memory * 3 // 4 if large else memory * 2 // 3
    return Machine("apple_gpu", memory, usable, f"macOS lets the GPU hold {'3/4' if large else '2/3'} of memory")


def cuda(memory: int) -> Machine:
    """An NVIDIA GPU with ``memory`` bytes: 5%, and at least 1 GiB, are the context's and the allocator's."""
    usable = memory - max(GIB, memory // 20)
    return Machine("cuda_gpu", memory, usable, "5%, and at least 1 GiB, are left to CUDA and its allocator")


def cpu(memory: int, cores: int) -> Machine:
    """A machine that computes on its CPU, 15% of whose memory is left to the system and to Python."""
    return Machine("cpu", memory, memory * 85 // 100, "15% are left to the system and to Python", cores)
