"""Reports that grow run by run: saved after each, and gone on from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from pathlib import Path

from ..errors import StatsError
from ..files import write_aside
from ..options import Saving, Step
from ..pair.seal import check_json_seal, read_json, sealed_text
from ..signals import check
from ..types import Json


class KeptRuns:
    """The ``runs`` of a ``report``, which has its other sections. key: what tells one run from another.

    sections: those that must be what they are for a run to go on. Raises `StatsError` where the report at the output is
    of another measurement.
    """

    def __init__(
        self, report: Json, saving: Saving, sections: Collection[str], key: Callable[[Json], Hashable]
    ) -> None:
        self.report, self._path = report, None if saving.output is None else Path(saving.output)
        self._done: dict[Hashable, Json] = {}
        if saving.resume and self._path is not None and self._path.exists():
            self._done = {key(one): one for one in self._before(self._path, sections)}

    def run(self, key: Hashable, make: Callable[[], Json], last: bool) -> Json:
        """The run of ``key``, made unless it is there; the report is saved with it. last: none comes after it."""
        made = self._done.get(key)
        if made is None:
            made = make()
        self.report["runs"].append(made)
        self.save(last)
        check()
        return made

    def save(self, complete: bool) -> None:
        """Write the report as it is now."""
        self.report["complete"] = complete
        if self._path is not None:
            write_aside({self._path: sealed_text(self.report).encode()})

    def _before(self, path: Path, sections: Collection[str]) -> list[Json]:
        before = read_json(path, StatsError)
        kind = self.report["kind"]
        if not isinstance(before, dict) or before.get("kind") != kind:
            raise StatsError(f"{path} is JSON, but no report of {kind}.")
        check_json_seal(before, str(path))
        for section in sections:
            if before.get(section) != self.report.get(section):
                raise StatsError(
                    f"Cannot resume {path}: the {section} in it is not that of this run; repeat its options."
                )
        runs: list[Json] = before["runs"]
        return runs


def within(step: Step, what: str, done: int, total: int) -> Step:
    """``step``, of one run of several."""

    def told(inner: str, part: int, parts: int) -> None:
        step(f"{what} ({done} of {total}): {inner}", part, parts)

    return told
