"""Models, checkpoints and adapters as sides of a comparison: each is measured on the same text first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import StatsError
from ..files import plain_name
from ..measure.keep import is_streamed
from ..measure.run import measure
from ..options import Options, Step, quiet_step
from ..pair.stats import RoutingStats
from ..signals import stopped_with

EMBEDDED = "moebench-nano"
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Target:
    """What to measure: a model (None for the embedded one), with an adapter on it or without."""

    model: str | None
    adapter_path: Path | None = None

    @property
    def name(self) -> str:
        """For a file: the last parts of both names."""
        parts = [Path(self.model or EMBEDDED).name or "model"]
        parts += [self.adapter_path.name or "adapter"] if self.adapter_path else []
        return plain_name("_".join(parts))


def target(text: str, base: str | None = None) -> Target:
    """The model that ``text`` names: ``moebench-nano``, a folder, a hub id, or an adapter's folder, to go on ``base``.

    Raises `StatsError` where it can be none of them.
    """
    if text == EMBEDDED:
        return Target(None)
    folder = Path(text).expanduser()
    if folder.is_dir():
        if (folder / ADAPTER).is_file() and not (folder / "config.json").is_file():
            return Target(None if base == EMBEDDED else base, folder)
        return Target(text)
    if text.count("/") != 1 or text.startswith((".", "~", "/")) or text.endswith("/"):
        raise StatsError(
            f"{text!r} is neither a stats pair nor a model: there is no {text}.json, no folder of that name, and a hub "
            "id has the form owner/name."
        )
    return Target(text)


def measured(
    wanted: Target,
    side: str,
    folder: Path | None,
    dataset: str,
    options: Options,
    step: Step = quiet_step,
) -> RoutingStats | Path:
    """One side, measured: its statistics, or with a ``folder`` its stats pair there, gone on with if it was cut short.

    The model is loaded for this alone, so that two never are in memory together.
    """
    output = None if folder is None else folder / f"{side.lower()}_{wanted.name}.json"

    def named(what: str, done: int, total: int) -> None:
        step(f"{side}: {what}", done, total)

    options = replace(
        options,
        loading=replace(options.loading, adapter_path=wanted.adapter_path),
        saving=replace(options.saving, output=output, resume=output is not None),
    )
    try:
        stats = measure(wanted.model, dataset, options, step=named).stats["prefill"]
    except StatsError as error:
        error.add_note("(For a new comparison, choose another --output-dir.)")
        raise
    except KeyboardInterrupt as stop:
        if output is None or not (output.exists() or is_streamed(output)):
            raise
        kept = f"what was measured is in {output}, and the same command continues from there."
        raise stopped_with(stop, f"; {kept}") from stop
    return stats if output is None else output
