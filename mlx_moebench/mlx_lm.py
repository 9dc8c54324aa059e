"""``python -m mlx_moebench.mlx_lm generate ...`` is ``mlx_lm generate ...``, which then also finds the models that are
written here or in other packages, as JetMoE."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from .blas import load_fast_blas
from .families import families


def register_models() -> list[str]:
    """Put the model of every family that has a module of its own where mlx-lm looks for models; their model types."""
    load_fast_blas()  # before mlx-lm imports mlx
    from mlx_lm.utils import MODEL_REMAPPING

    registered = []
    for model_type, family in families().items():
        if family.module:
            # mlx-lm imports mlx_lm.models.TYPE, and Python looks here first.
            sys.modules[f"mlx_lm.models.{model_type}"] = import_module(family.module)
            MODEL_REMAPPING.pop(model_type, None)
            registered.append(model_type)
    return registered


def main(arguments: Sequence[str] | None = None) -> None:
    """Run mlx-lm's command line, by default on the arguments of this process."""
    register_models()
    from mlx_lm import cli

    before = sys.argv
    sys.argv = ["mlx_lm", *(before[1:] if arguments is None else arguments)]
    try:
        cli.main()
    finally:
        sys.argv = before


if __name__ == "__main__":
    from .cli._streams import guarded

    with guarded():
        main()
