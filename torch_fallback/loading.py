"""Load a checkpoint with transformers, with every check that needs no weights made before weights are read."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from safetensors import SafetensorError

from mlx_moebench.checkpoints import Checkpoint, Located, find, read_adapter, refused_code, shortened
from mlx_moebench.checkpoints.folder import fingerprint
from mlx_moebench.checkpoints.foreign import FOREIGN, check_accepted, said
from mlx_moebench.checkpoints.packing import unread_by_torch, whole_numbers
from mlx_moebench.checkpoints.weights import stored_bits
from mlx_moebench.errors import MissingExtraError, ModelLoadError, RenamedError, renamed
from mlx_moebench.families import Family
from mlx_moebench.options import Loading, LoadingChoices, Step, quiet_step, with_choices
from mlx_moebench.pair.model import remember
from mlx_moebench.types import Facts, Json, Network, Tokenizer

from . import ranks
from .adapters import merge_adapter
from .capture import Located as Router
from .capture import dtype_of, locate, until_last_router
from .environment import chosen_device
from .reading import auto_class, check

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DeviceMap = str | dict[str, torch.device]

SPARE = 0.9
"""The share of a GPU's free memory that weights may take; a model that needs more is spread out."""


def load(model: str | Path | None = None, **options: Any) -> tuple[Network, Tokenizer]:
    """`load_checkpoint` for those who want the model and the tokenizer only."""
    checkpoint = load_checkpoint(model, **options)
    return checkpoint.model, checkpoint.tokenizer


def load_checkpoint(
    model: str | Path | None = None,
    loading: Loading | None = None,
    *,
    device: str | torch.device = "cpu",
    device_map: str | Facts | None = None,
    revision: str | None = None,
    step: Step = quiet_step,
    **choices: Any,
) -> Checkpoint:
    """Load a sparse model: a folder, a hub id, or with None the small model that ships in the package.

    loading: dtype, bits, router_bits, adapter_path and trust_remote_code in one; keywords win over it.
    device: where it computes, a torch device or its name, such as ``auto`` or ``cuda:1``. device_map: for transformers
    instead, such as ``auto``, with max_memory and offload_folder; None means ``device``, or ``auto`` where
    the weights do not fit into that GPU's free memory.
    dtype: ``float32``, ``bfloat16`` or ``float16``; None means float32 on the CPU and as stored elsewhere.
    bits: 4 packs every expert and linear layer as NF4 while it is read, layer by layer (see `fourbit`); routers,
    embeddings and head keep dtype. router_bits: 16 or None, since routers are never quantised here.
    adapter_path: folder of a LoRA adapter that mlx-lm trained; it is merged into the weights. step: is told of layers
    that are in 4 bit.

    Raises ModelLoadError where the checkpoint is missing, incomplete or broken or something is asked for that it
    cannot have, UnsupportedModelError where it is dense or no family serves it, MoebenchError for a device that is not
    there, MissingExtraError without accelerate.
    """
    loading, placing = _choices(loading, choices)
    placing |= {} if device_map is None else {"device_map": device_map}
    _check_bits(loading, placing)
    device, bits = chosen_device(device) if isinstance(device, str) else device, loading.bits
    adapter = None if loading.adapter_path is None else read_adapter(loading.adapter_path)
    located = find(model, revision, loading.trust_remote_code, unquantised=bits is not None, check=_check)
    if whole := whole_numbers(located.weights, located.name):
        warnings.warn(whole, UserWarning, stacklevel=2)
    tokenizer = _tokenizer(located, loading.trust_remote_code)
    stored = stored_bits(located.weights)
    dtype = DTYPES[loading.dtype] if loading.dtype else torch.float32 if device.type == "cpu" else None
    if bits is not None:
        network = _in_4bit(located, device, dtype or torch.bfloat16, loading.trust_remote_code, step)
    else:
        placing = {"device_map": _map(located, device, dtype, stored)} | placing
        network = _whole(located, dtype, loading.trust_remote_code, placing)
    network.eval()
    if placing.get("device_map", {"": device}) == {"": device}:  # else weights may wait on disk, to be read twice
        _try(network, located.folder)
    printed = fingerprint(located.weights, _router_values(network))
    if adapter is not None:
        merge_adapter(network, adapter, located.name)
    checkpoint = Checkpoint(
        model=network,
        tokenizer=tokenizer,
        config=located.config,
        name=located.name,
        path=located.folder,
        revision=located.revision,
        dtype=dtype_of(network),
        weight_bits=bits or stored,
        fingerprint=printed,
        quantised_on_load=bits is not None,
        adapter=adapter.facts if adapter else None,
        backend="torch",
    )
    remember(network, checkpoint.origin)
    return checkpoint


def _choices(loading: Loading | None, choices: Json) -> tuple[Loading, Json]:
    """What the keywords of a call say of `Loading`, and the others, which say where transformers puts the weights."""
    names = LoadingChoices.__annotations__.keys()
    placing = {name: value for name, value in choices.items() if name not in names}
    chosen: LoadingChoices = {name: choices[name] for name in names & choices.keys()}  # type: ignore[assignment]
    return with_choices(loading, chosen), placing


def _check_bits(loading: Loading, placing: Facts) -> None:
    bits, router_bits = loading.bits, loading.router_bits
    if bits not in (None, 4):
        raise ModelLoadError(f"On torch experts are quantised to 4 bit (NF4) or not at all, not to {bits}; use --4bit.")
    if router_bits not in (None, 16):
        raise ModelLoadError(f"On torch routers are never quantised; leave --router-bits {router_bits} out.")
    if bits and loading.adapter_path is not None:
        raise ModelLoadError("On torch an adapter is merged into unquantised weights; leave --4bit or the adapter out.")
    if bits and placing:
        raise ModelLoadError(f"In 4 bit a model goes to one device; leave {' and '.join(placing)} out.")


def _check(family: Family, config: Json) -> None:
    """Refuse what transformers does not read."""
    check(family, config)
    if config.get("quantization") is not None:
        raise ModelLoadError(
            "This checkpoint was quantised by MLX, which transformers does not read; use --backend mlx, or give the "
            "unquantised model."
        )


def _in_4bit(
    located: Located, device: torch.device, dtype: torch.dtype, trust_remote_code: bool, step: Step
) -> Network:
    try:
        from .fourbit import load_in_4bit
    except ImportError as error:  # it plans what to read with functions that transformers keeps for itself
        raise renamed(error) or error from error
    with _quiet():
        return load_in_4bit(
            located.folder,
            located.config,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            step=step,
        )


def _whole(located: Located, dtype: torch.dtype | None, trust_remote_code: bool, placing: Json) -> Network:
    """transformers' own loading, with a word where it would go on without one."""
    if importlib.util.find_spec("accelerate") is None:  # transformers would ask for it in words of its own
        raise MissingExtraError("Loading models on torch", "torch")
    options = {"dtype": dtype or "auto", "trust_remote_code": trust_remote_code, "local_files_only": True}
    # Other shapes are refused below, with the name of the weight.
    options |= {"output_loading_info": True, "use_safetensors": True, "ignore_mismatched_sizes": True}
    try:
        with _quiet(), located.weights.laid_out() as folder:
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
            network, report = auto_class(config).from_pretrained(folder, **options, **placing)
    except (ImportError, SafetensorError, *FOREIGN) as error:
        if "trust_remote_code" in str(error):
            raise refused_code(located.folder, "its model") from error
        if packed := unread_by_torch(located.config, located.weights, located.name, shortened(error, 120)):
            raise packed from error
        if isinstance(error, ImportError):
            raise ModelLoadError(f"{located.folder}: {shortened(error)}.") from error
        raise ModelLoadError(f"{located.folder}: config.json and weights do not fit ({shortened(error)}).") from error
    alone = type(network.config) is not type(config)  # the language model of a multimodal one
    for what, instead in _WITHOUT_A_WORD.items():
        if what not in report:
            raise RenamedError("transformers", f"{what} among what from_pretrained says", "loading is checked by")
        keys = sorted(map(str, report[what] or ()))
        if alone and what == "unexpected_keys":
            keys = [key for key in keys if "language_model" in key]
        if keys:
            raise ModelLoadError(
                f"{located.folder}: config.json and weights do not fit ({len(keys)} {what.replace('_', ' ')}, such as "
                f"{keys[0]}), and transformers would {instead}; fetch the checkpoint again."
            )
    return network


_WITHOUT_A_WORD = {
    "missing_keys": "fill in random ones",
    "mismatched_keys": "fill in random ones",
    "unexpected_keys": "leave them out",
    "error_msgs": "go on",
}
"""What transformers does about differences between a checkpoint and its config.json."""


def _try(network: Network, folder: Path) -> None:
    """Put a token through the model: some settings are first read then."""
    failed = said(f"{folder}: transformers built a model that cannot run", "mend config.json or fetch it again")
    with failed, torch.inference_mode(), _quiet(), until_last_router(network):  # so the first batch can be cut short
        network(input_ids=torch.zeros((1, 1), dtype=torch.long, device=network.device), use_cache=False)


def _map(located: Located, device: torch.device, dtype: torch.dtype | None, stored: float) -> DeviceMap:
    """The device, or ``auto`` where the weights are larger than what the GPU has free.

    Raises ModelLoadError there under torchrun, where every process would spread its own over the same GPUs.
    """
    if device.type != "cuda":
        return {"": device}
    size = located.weights.nbytes
    if dtype is not None:
        size = int(size * dtype.itemsize * 8 / stored)
    free, _ = torch.cuda.mem_get_info(device)
    if size <= SPARE * free:
        return {"": device}
    if ranks.of_this_process() is not None:
        raise ModelLoadError(
            f"{located.name} needs {size / 1e9:.1f} GB and {device} has {free / 1e9:.1f} GB free: without torchrun one "
            "process spreads it over all GPUs; or use --4bit."
        )
    return "auto"


def _tokenizer(located: Located, trust_remote_code: bool) -> Tokenizer:
    try:
        with _quiet():
            tokenizer: Tokenizer = transformers.AutoTokenizer.from_pretrained(
                located.folder, trust_remote_code=trust_remote_code, local_files_only=True
            )
            tokenizer.encode("a")  # some of its settings are first read then
    except (ImportError, *FOREIGN) as error:
        if "trust_remote_code" in str(error):
            raise refused_code(located.folder, "its tokenizer") from error
        check_accepted(error, located.folder)
        raise ModelLoadError(f"{located.folder}: the tokenizer cannot be loaded ({shortened(error)}).") from error
    return tokenizer


def _router_values(network: Network) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """What the parameters of each router are called in MLX, and their values."""
    for router in locate(network):
        for name, values in sorted(_parameters(router)):
            yield name, values.detach().float().cpu().numpy()


def _parameters(router: Router) -> Iterator[tuple[str, torch.Tensor]]:
    """The weight, the bias of its logits, and that of the choice where MLX keeps it in the same module.

    They are brought into memory where they wait on the CPU or on disk.
    """
    form, place = router.form, router.place
    gate, block = _present(router.gate), _present(router.layer) if place.bias else {}
    name, weight = next((name, weight) for name, weight in gate.items() if weight.ndim == 2 and len(weight) > 1)
    yield "weight", weight
    if (bias := gate.get(name.removesuffix("weight") + "bias")) is not None:
        yield "bias", bias
    if place.bias in block and form.bias.startswith(f"{form.gate}."):
        yield form.bias.removeprefix(f"{form.gate}."), block[place.bias].reshape(-1)


def _present(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers of a module, brought into memory where they wait on the CPU or on disk."""
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    if all(tensor.device.type != "meta" for tensor in tensors.values()):
        return tensors
    from accelerate.utils import align_module_device

    for name, inner in module.named_modules():
        with align_module_device(inner, torch.device("cpu")):
            own = (*inner.named_parameters(recurse=False), *inner.named_buffers(recurse=False))
            tensors |= {f"{name}.{key}".lstrip("."): tensor.detach().clone() for key, tensor in own}
    return tensors


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and advice; what matters of it is checked here."""
    logger = logging.getLogger("transformers")
    level, bars = logger.level, transformers.utils.logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
