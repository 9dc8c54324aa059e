"""Write results/ROUTING_PROFILE_TABLE.md from the stats pairs in results/.

    python scripts/update_leaderboard.py
    python scripts/update_leaderboard.py --results my_results     # routing_stats_*.json of your own, in a folder

A row for each pair (for each data set of a pair of several), model, phase and kind of router. Figures that others
published (published.json, where the folder has one) stand apart, as theirs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from leaderboard import leaderboard_of, published_table
from published import read_published

from mlx_moebench.errors import MoebenchError, StatsError
from mlx_moebench.files import write_aside

TABLE = "ROUTING_PROFILE_TABLE.md"

INTRODUCTION = """\
<!-- Written by scripts/update_leaderboard.py from the stats pairs beside it: change those, not this. -->
# Routing profiles

Measured with this package; the run numbers name the commands below. `[low, high]` is the 95% interval over sequences
that the pair's report describes, and a letter stands for the reason where there is none. n_eff, which is biased in
finite samples, is shown corrected where it has an interval. The three shares of the busiest expert (of any layer) are
three quantities: of tokens, of selections, of first choices. "collapsed" is a flag on one domain, the share of routers
whose busiest expert takes more than tau of the tokens, and no finding: whether a router has collapsed or specialised
takes several domains, and `mlx-moebench profile`. Entropy and n_eff are means over layers. "data" is the start of the
data set's sha256. Routing counts of others have no model that was run here, and "counts" as their backend.

"""

THEIRS = """
## Published by others

Not measured here: what {name} prints for {protocol}
([source]({url})). What a figure can be follows from the ranges of the quantities
with the model's E and K, and from nothing that was measured.

{table}
{ambiguities}
"""


def table(results: Path) -> str:
    """The whole page; raises `StatsError` where there is nothing to show."""
    paths = sorted(results.glob("routing_stats_*.json"))
    if not paths:
        raise StatsError(f"There is no routing_stats_*.json in {results}: measure something into it first.")
    text = INTRODUCTION + leaderboard_of(paths)
    if (results / "published.json").exists():
        published = read_published(results / "published.json")
        ambiguities = "\n".join(f"- {line}" for line in published["ambiguities"])
        facts = {key: published[key] for key in ("name", "protocol", "url")}
        text += THEIRS.format(**facts, table=published_table(published), ambiguities=ambiguities)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the pairs [results]")
    args = parser.parse_args()
    try:
        write_aside({args.results / TABLE: table(args.results).encode()})
    except MoebenchError as error:
        sys.exit(f"Error: {error}")
    print(f"Wrote {args.results / TABLE}")


if __name__ == "__main__":
    main()
