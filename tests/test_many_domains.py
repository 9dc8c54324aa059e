"""Very many domains: what is made of each two of them is left out, and the page shows the first ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from routing_reference import ENVIRONMENT, MODEL, random_routing, validate

from mlx_moebench import RoutingStats
from mlx_moebench.pair.profile import MOST_PAIRED, domain_report
from mlx_moebench.pair.storage import read_report
from mlx_moebench.routing import Plan, RouterSpec, tally
from mlx_moebench.show.domains import MOST_SHOWN
from mlx_moebench.show.inputs import read_inputs
from mlx_moebench.show.page import build_page

PLAN = Plan(resamples=100)


def domain(number: int, routers: int = 2, rows: int = 10) -> RoutingStats:
    """Statistics of one domain, on random routing of its own."""
    specs = tuple(RouterSpec(layer, layer, "mlp", 8, 2) for layer in range(routers))
    sha = f"{number:064x}"
    source = {"name": f"domain-{number:04}", "max_length": 64, "padding": "right, masked", "bos": None}
    stats = RoutingStats(specs, model=MODEL, environment=ENVIRONMENT, sources={sha: source})
    for layer in range(routers):
        routing = random_routing(10 * number + layer, (rows, 12), 8, 2)
        stats.add(layer, [(sha, row) for row in range(rows)], tally(routing))
    return stats


def test_more_domains_than_are_shown_one_by_one(tmp_path: Path) -> None:
    many = MOST_SHOWN + 5
    assert many > MOST_PAIRED
    RoutingStats.merge([domain(number) for number in range(many)]).save(tmp_path / "many", PLAN)
    validate(read_report(tmp_path / "many"))
    inputs = read_inputs([tmp_path / "many.json"], plan=PLAN)
    assert f"Data (the first {MOST_SHOWN} of {many} domains)" in build_page(inputs)
    (profile,) = inputs.profiles.values()
    assert len(profile["domains"]) == many
    for router in profile["routers"]:
        assert router["jensen_shannon"] == []
        assert len(router["adjacent_overlap"]["domains"]) == many


def test_what_is_made_for_a_profile_alone_is_that_of_the_reports() -> None:
    """The overlap of each domain with its interval, whether its whole report was made or not."""
    parts = [domain(number) for number in range(3)]
    merged = RoutingStats.merge(parts)
    reports = {name: part.report(PLAN) for name, part in merged.by_domain().items()}
    assert domain_report(merged, {}, PLAN) == domain_report(merged, reports, PLAN)


@pytest.mark.slow
def test_a_thousand_domains(tmp_path: Path) -> None:
    """Merged from a thousand pairs, saved, and shown."""
    for number in range(1000):
        domain(number, routers=4).save(tmp_path / f"{number}", PLAN)
    whole = RoutingStats.merge([RoutingStats.load(tmp_path / f"{number}.json") for number in range(1000)])
    whole.save(tmp_path / "whole", Plan(resamples=1000))
    assert read_report(tmp_path / "whole")["routers"][3]["findings"]["word"]
    page = build_page(read_inputs([tmp_path / "whole.json"]))
    assert "of 1,000 domains" in page
    assert len(page) < 5_000_000
