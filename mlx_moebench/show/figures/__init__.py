"""Every figure, described once: the numbers as series, and the charts and heatmaps that plots and pages both draw.

Every series says its unit, how many sequences and tokens it is of, and what it means. Undefined numbers are NaN, with
a reason beside them.
"""

from .answer import Answer, Fact, answer
from .base import RouterId, Value
from .coactivation import CoactivationSeries, coactivation_heat, coactivation_series
from .definitions import definitions
from .differences import (
    WITHOUT,
    DifferenceSeries,
    LoadDifference,
    change_heat,
    difference_sentence,
    difference_series,
    distance_chart,
    effect_chart,
)
from .domains import (
    DomainSeries,
    RouterDomains,
    divergence_chart,
    domain_heat,
    domain_series,
    information_chart,
    router_heat,
    share_chart,
    spread_chart,
)
from .drawing import CLEAR, Chart, Heat, Line, Measure, Points, Reference, Scale, kinds_of
from .dynamics import (
    DynamicsSeries,
    chance_of,
    course_chart,
    depth_chart,
    dynamics_series,
    label_of,
    layers_chart,
    load_course,
)
from .layers import LAYER_METRICS, LayerSeries, layer_chart, layer_series
from .load import Band, DeadSeries, LoadSeries, RouterLoad, dead_chart, dead_series, load_heat, load_series, none_dead
from .quant import QuantSeries, arm_words, kept_chart, margin_chart, quant_series
from .sentences import findings_sentence, report_sentence
from .strip import Place, Strip, strips
from .training import TrainingSeries, training_charts, training_series
from .uncertainty import Curve, UncertaintySeries, loss_chart, rho_chart, uncertainty_series
from .verdicts import Verdict, training_verdict

__all__ = [
    "CLEAR",
    "LAYER_METRICS",
    "WITHOUT",
    "Answer",
    "Band",
    "Chart",
    "CoactivationSeries",
    "Curve",
    "DeadSeries",
    "DifferenceSeries",
    "DomainSeries",
    "DynamicsSeries",
    "Fact",
    "Heat",
    "LayerSeries",
    "Line",
    "LoadDifference",
    "LoadSeries",
    "Measure",
    "Place",
    "Points",
    "QuantSeries",
    "Reference",
    "RouterDomains",
    "RouterId",
    "RouterLoad",
    "Scale",
    "Strip",
    "TrainingSeries",
    "UncertaintySeries",
    "Value",
    "Verdict",
    "answer",
    "arm_words",
    "chance_of",
    "change_heat",
    "coactivation_heat",
    "coactivation_series",
    "course_chart",
    "dead_chart",
    "dead_series",
    "definitions",
    "depth_chart",
    "difference_sentence",
    "difference_series",
    "distance_chart",
    "divergence_chart",
    "domain_heat",
    "domain_series",
    "dynamics_series",
    "effect_chart",
    "findings_sentence",
    "information_chart",
    "kept_chart",
    "kinds_of",
    "label_of",
    "layer_chart",
    "layer_series",
    "layers_chart",
    "load_course",
    "load_heat",
    "load_series",
    "loss_chart",
    "margin_chart",
    "none_dead",
    "quant_series",
    "report_sentence",
    "rho_chart",
    "router_heat",
    "share_chart",
    "spread_chart",
    "strips",
    "training_charts",
    "training_series",
    "training_verdict",
    "uncertainty_series",
]
