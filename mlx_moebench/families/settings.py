"""Settings of a config.json, by whoever wrote it: other keys for the same thing, nested sections, defaults."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import ModelLoadError
from ..types import Facts

Config = Facts
"""The settings of a ``config.json``, or of a loaded model's arguments."""

Keys = str | tuple[str, ...]
"""The key of a setting in a config, or its keys by different writers, tried in order; ``a.b`` is b inside a, and
``a.0`` the first value of a list."""

SECTION = "text_config"
"""Where a multimodal model keeps the settings of its language model."""


class Key(NamedTuple):
    """A setting that a config may leave out. ``default`` is what the model takes where it does."""

    keys: Keys
    default: Any


VOCABULARY = Key(("vocab_size", "num_vocab"), None)
"""The number of token ids."""

HEADS = Key(("num_attention_heads", "n_heads", "n_head", "num_heads"), 32)
"""The heads of an attention layer that have queries of their own."""


def names_of(keys: Keys) -> tuple[str, ...]:
    """``keys`` as a tuple, also where there is only one."""
    return (keys,) if isinstance(keys, str) else keys


def setting(config: Config, keys: Keys) -> Any:
    """``config[key]`` of the first key that has a value, or the one inside `SECTION` of a multimodal model.

    Raises ModelLoadError where neither has any of them.
    """
    return entry(config, keys)[1]


def entry(config: Config, keys: Keys) -> tuple[str, Any]:
    """The key that `setting` finds, and its value."""
    for key in names_of(keys):
        for scope in (config, config.get(SECTION) or {}):
            if (value := _inside(scope, key)) is not None:
                return key, value
    raise ModelLoadError(
        f"The config of this {config.get('model_type')!r} model lacks {' or '.join(map(repr, names_of(keys)))}; add it "
        "to config.json or fetch the checkpoint again."
    )


def value_of(config: Config, declared: Any) -> Any:
    """What a declaration amounts to in this config: the value of a `Key` or its default, anything else as it is."""
    if not isinstance(declared, Key):
        return declared
    try:
        return setting(config, declared.keys)
    except ModelLoadError:
        return declared.default


def count(config: Config, keys: Keys) -> int:
    """``setting(config, keys)``, which must be a whole number of 1 or more; raises ModelLoadError otherwise."""
    key, value = entry(config, keys)
    if isinstance(value, list):
        raise ModelLoadError(
            f"The config of this {config.get('model_type')!r} model has {key} = {_shortened(value)}, a number for each "
            "layer, as pruned models do: neither mlx-lm nor transformers builds layers of different sizes from it, so "
            "the checkpoint needs the code it came with."
        )
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelLoadError(
            f"The config of this {config.get('model_type')!r} model has {key} = {value!r}; it must be a whole number "
            "of 1 or more."
        )
    return value


def has(config: Config, keys: Keys) -> bool:
    """Whether this very section has a value for any of the keys."""
    return any(_inside(config, key) is not None for key in names_of(keys))


def is_null(config: Config, key: str) -> bool:
    """Whether a setting is there and null."""
    *path, last = key.split(".")
    for scope in (config, config.get(SECTION) or {}):
        inside = _inside(scope, ".".join(path)) if path else scope
        if isinstance(inside, dict) and last in inside:
            return inside[last] is None
    return False


def _inside(scope: Any, key: str) -> Any:
    for part in key.split("."):
        if isinstance(scope, list) and part.isdigit():
            scope = scope[int(part)] if int(part) < len(scope) else None
        else:
            scope = scope.get(part) if isinstance(scope, dict) else None
    return scope


def _shortened(values: list[Any]) -> str:
    return str(values) if len(values) < 5 else f"[{', '.join(map(str, values[:3]))}, ...] ({len(values)} numbers)"
