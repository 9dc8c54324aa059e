"""Vision-language models of mlx-vlm: how their routers treat the tokens of images, and those of text.

Needs the extra ``vlm``. What is measured, and what is not, stands in docs/vlm.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.nn as nn
import numpy as np

from .checkpoints import LoadedModel
from .environment import environment, package_version
from .errors import DataError, MissingExtraError, MoebenchError, missing_package
from .files import check_regular, read_bytes
from .instrument import LiveRoutingStats
from .instrument.models import is_of_mlx_vlm
from .measure.on_mlx import checkpoint_facts
from .options import Step, quiet_step
from .pair.stats import RoutingStats
from .routing.record import Mask
from .routing.repeats import text_hash
from .types import Facts, Json

if TYPE_CHECKING:
    from PIL.Image import Image

Pair = tuple["str | Path | Image", str]
"""An image, or the path of its file, and what is asked of it."""

TEXT, IMAGE = "text", "image"
"""The two domains."""

# mlx-vlm's configs call the token that an image's features take the place of by any of these names.
_IMAGE_TOKENS = ("image_token_id", "image_token_index", "media_placeholder_token_id", "im_patch_id")


def measure(
    model: nn.Module,
    processor: Any,
    pairs: Iterable[Pair],
    *,
    tau: float = 0.40,
    collapse_on: str = "top_share_token",
    step: Step = quiet_step,
) -> RoutingStats:
    """Measure how a vision-language model routes images and the texts beside them, as the two domains of one result.

    Every pair is one prompt of one image, written by mlx-vlm's chat template and run once, alone (phase prefill). The
    positions that an image's features take are those of domain ``image``, all others of domain ``text``; both parts
    of a pair have its row. The information between domain and expert is then that between modality and expert.

    Parameters
    ----------
    model, processor
        As ``mlx_vlm.load`` returns them.
    pairs
        (image, prompt): an image of Pillow or the path of one; the prompt without a mark for the image.
    tau, collapse_on
        As for `attach`.
    step
        Called with the progress.

    Returns
    -------
    RoutingStats
        Of both domains; ``by_domain()`` has each. `pair.profile.profile_of_stats` compares them, and so does
        ``mlx-moebench profile`` of the pair that ``save`` writes.

    Raises
    ------
    MissingExtraError
        Without mlx-vlm.
    UnsupportedModelError
        For a model whose routers no family describes.
    DataError
        For no pairs, an image that cannot be read, and a prompt in which the model finds no image.
    """
    prepare = _preparing()
    if not is_of_mlx_vlm(model):
        raise MoebenchError(f"{type(model).__module__} is not of mlx-vlm; load the model with mlx_vlm.load.")
    listed = list(pairs)
    if not listed:
        raise DataError("There is nothing to measure: give at least one pair of an image and a prompt.")
    loaded = LoadedModel(model, getattr(processor, "tokenizer", processor))
    facts: Json = {"format": "image and prompt", "field": None, "unit": "row", "max_length": None, "padding": "none"}
    facts |= {"documents": len(listed), "bos": _bos(loaded)}
    digest = _sha256(listed)
    shas = {name: hashlib.sha256(f"{name} {digest}".encode()).hexdigest() for name in (TEXT, IMAGE)}
    parts = {
        name: LiveRoutingStats(
            model,
            sources={sha: {"name": name, **facts}},
            tau=tau,
            collapse_on=collapse_on,
            model=checkpoint_facts(model, loaded),
            environment=environment() | {"mlx_vlm": package_version("mlx-vlm")},
        )
        for name, sha in shas.items()
    }
    with ExitStack() as stack:
        for part in parts.values():
            stack.enter_context(part)
        for row, (image, prompt) in enumerate(listed):
            step("measuring, pairs", row, len(listed))
            picture = _opened(image, row)
            inputs = prepare(model, processor, picture, prompt)
            of_image = image_positions(model, inputs)
            if not of_image.any():
                raise DataError(
                    f"Pair {row}: the model finds no image in its prompt; the processor needs a chat template that "
                    "marks its place, or the prompt the mark itself."
                )
            _run(model, inputs, row, {parts[IMAGE]: of_image, parts[TEXT]: ~of_image})
            # Two images may have the same tokens.
            pixels = np.frombuffer(picture.tobytes(), dtype=np.uint8)
            text = text_hash([np.array(inputs["input_ids"])[0], np.array(picture.size), pixels])
            for name, part in parts.items():
                part.texts[shas[name], row] = text
    # Merged they are plain statistics, without the model, which live ones hold on to.
    return RoutingStats.merge(list(parts.values()))


def image_positions(model: nn.Module, inputs: Facts) -> Mask:
    """Where the features of images stand among ``inputs`` [B, S] that mlx-vlm prepared: [B, S] bool.

    By the mask that the processor made, where it makes one, else by the model's image tokens.
    """
    if (made := inputs.get("images_seq_mask")) is not None:
        return np.array(made, dtype=bool)
    tokens = {getattr(model.config, name, None) for name in _IMAGE_TOKENS} - {None}
    return np.isin(np.array(inputs["input_ids"]), sorted(tokens))


def _run(model: nn.Module, inputs: Facts, row: int, masks: dict[LiveRoutingStats, Mask]) -> None:
    """One forward, of which each statistics counts its own positions. Nothing is evaluated that no router needs."""
    others = {key: value for key, value in inputs.items() if key not in ("input_ids", "pixel_values", "attention_mask")}
    with ExitStack() as stack:
        for stats, mask in masks.items():
            stack.enter_context(stats.batch(mask=mask, ids=[row]))
        # Without a mask: one row has no padding, and some models take the processor's mask for one of attention.
        model(inputs["input_ids"], inputs["pixel_values"], **others)


def _preparing() -> Any:
    """``prepare(model, processor, image, prompt)``: what the model is called with, by mlx-vlm's own functions."""
    try:
        from mlx_vlm.prompt_utils import apply_chat_template
        from mlx_vlm.utils import prepare_inputs, should_add_special_tokens
    except ImportError as error:
        if missing_package(error) is None:
            raise
        raise MissingExtraError("Measuring images", "vlm") from error

    def prepare(model: nn.Module, processor: Any, image: Image, prompt: str) -> Json:
        config = model.config
        inputs: Json = prepare_inputs(
            processor,
            images=[image],
            prompts=apply_chat_template(processor, config, prompt, num_images=1),
            image_token_index=getattr(config, "image_token_index", None),
            add_special_tokens=should_add_special_tokens(config.model_type, processor),
        )
        return inputs

    return prepare


def _opened(image: str | Path | Image, row: int) -> Image:
    import PIL.Image

    if not isinstance(image, str | Path):
        return image.convert("RGB")
    try:
        check_regular(Path(image))
        with PIL.Image.open(image) as file:
            return file.convert("RGB")
    except OSError as error:
        raise DataError(f"Pair {row}: {image} is no image that can be read ({error}).") from error


def _sha256(pairs: list[Pair]) -> str:
    """Of all images, as their files are or as their pixels, and of the prompts."""
    digest = hashlib.sha256()
    for row, (image, prompt) in enumerate(pairs):
        if isinstance(image, str | Path):
            try:
                data = read_bytes(Path(image))
            except OSError as error:
                raise DataError(f"Pair {row}: {image} cannot be read: {error.strerror}.") from error
        else:
            data = f"{image.mode} {image.size} ".encode() + image.tobytes()
        for value in (data, prompt.encode()):
            digest.update(len(value).to_bytes(8, "little") + value)
    return digest.hexdigest()


def _bos(loaded: LoadedModel) -> str:
    token = loaded.tokenizer.bos_token_id
    return "none" if token is None else f"as the processor puts it, id {token}"
