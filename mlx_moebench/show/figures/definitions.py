"""What the words of the answer mean, for those who ask: only those that the answer uses."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import DEFINITION, meanings
from ..inputs import Inputs
from ..names import OPEN
from ..numbers import share
from .drawing import CLEAR
from .verdicts import SAME

EVEN = "The share of a layer's tokens that each expert would have if all had the same: K of E experts a token, K / E."


def definitions(inputs: Inputs) -> Iterator[tuple[str, str]]:
    """(term, meaning) of what is said of these inputs."""
    if inputs.trainings:
        yield "went well, went wrong", _VERDICT
        yield "signal, floor", _FLOOR
    for profile in list(inputs.profiles.values())[:1]:
        yield "a layer's word", meanings(profile["settings"]["thresholds"])
        yield "r, s and the others", DEFINITION
        yield "open", "Other texts might say otherwise: the interval of a number that decides holds its threshold."
    alone = [run for run in inputs.runs if run.name not in inputs.profiles]
    for run in alone[:1]:
        settings = run.report["settings"]
        yield "tau, flagged", _TAU.format(share(settings["tau"]))
        yield "open", f"Of a flag: {OPEN}."
    if inputs.comparisons:
        yield "A, B", "The two sides of a comparison; every difference is B minus A."
        yield "moved", _MOVED
    if inputs.runs or inputs.profiles:
        yield "even", EVEN
        yield "[low, high]", "The interval of a number: where it may lie for other texts of the same kind."


_VERDICT = (
    f"Wrong: the loss of held-out text ended more than {SAME:.0%} above that of the control (the same training with no "
    f"weight on the routing loss, where it was given) or above its own start; or the routing loss ended above its "
    "start by more than the noise of its steps. Well: the signal reached its floor, or the routing loss fell, and the "
    "loss did not rise."
)
_FLOOR = (
    "The entropy that the routing loss looks at (of the load, of the mean routing, or of each token), and the least of "
    "it that the training asks for, nats."
)
_TAU = (
    "A layer is flagged on one domain where its busiest expert takes more than tau = {} of the tokens. That may be "
    "collapse, or an expert of that domain: only several domains can tell."
)
_MOVED = (
    f"The load of a layer differs by more than chance: q < {CLEAR:g}, p of no difference adjusted over layers. "
    "Distance: the sum over experts of what their shares of selections differ by, 0 to 2, without what chance adds."
)
