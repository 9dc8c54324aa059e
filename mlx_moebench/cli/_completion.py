"""What a shell offers after Tab: models, data sets and metrics; click completes commands, options and choices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

DATA = Path(__file__).parents[1] / "data" / "prompts"


def complete_models(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """The embedded model, and folders."""
    before, text = _named(typed)
    return [before + name for name in ("moebench-nano", *_folders(text)) if name.startswith(text)]


def complete_data(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Bundled sets, files and folders."""
    before, text = _named(typed)
    bundled = sorted(path.stem for path in DATA.glob("*.jsonl"))
    return [before + name for name in (*bundled, *_files(text), *_folders(text)) if name.startswith(text)]


def complete_sides(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Stats pairs and models."""
    return [*complete_models(context, parameter, typed), *(name for name in _files(typed) if name.endswith(".json"))]


def complete_metrics(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Names of metrics."""
    from ..routing.metrics import METRICS

    return [name for name in METRICS if name.startswith(typed)]


class MetricOption(click.Option):
    """An option that takes the name of a metric; its help has them all, looked up when it is asked for."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from ..routing.metrics import METRICS

        record = super().get_help_record(ctx)
        return record and (record[0], f"{record[1]}  NAME: {', '.join(METRICS)}; `mlx-moebench metrics` explains them.")


def _named(typed: str) -> tuple[str, str]:
    """(``NAME=``, the rest) of NAME=VALUE; the first is empty where no name is given."""
    name, equals, text = typed.rpartition("=")
    return name + equals, text


def _beside(typed: str) -> Iterator[tuple[str, Path]]:
    """What lies in the folder that ``typed`` has reached, spelt as it was typed."""
    folder = typed.rpartition("/")[0] + "/" if "/" in typed else ""
    try:
        for path in sorted(Path(folder or ".").expanduser().iterdir()):
            yield folder + path.name, path
    except OSError:
        return


def _folders(typed: str) -> list[str]:
    """A model's folder as it is, any other with a slash, to go on from."""
    return [
        name if any((path / file).is_file() for file in ("config.json", "adapter_config.json")) else name + "/"
        for name, path in _beside(typed)
        if path.is_dir() and name.startswith(typed) and not path.name.startswith(".")
    ]


def _files(typed: str) -> list[str]:
    return [name for name, path in _beside(typed) if path.is_file() and name.startswith(typed)]
