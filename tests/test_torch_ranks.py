"""Several processes that share the work: every command that measures, not analyze alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_torch import texts
from transformers_models import random_transformers

from mlx_moebench import RoutingStats
from mlx_moebench.analysis.parity import parity
from mlx_moebench.errors import MoebenchError
from mlx_moebench.measure import analyze

TWO_COMMANDS = """
import sys
from mlx_moebench.cli import main
model, data, few = sys.argv[1], sys.argv[2], ["--quiet", "--max-length", "24", "--resamples", "100"]
domains = ["--domain", data, "--domain", "math", "--max-samples", "12"]
main(["profile", "--model", model, *domains, *few, "--output", "p", "--json"], backend="torch")
main(["compare", model, "moebench-nano", "--dataset", data, *few, "--json", "--output-dir", "c",
      "--allow", "routers", "--allow", "experts", "--allow", "collapse"], backend="torch")
"""

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.mark.slow
def test_profile_and_compare_in_two_processes(tmp_path: Path) -> None:
    """The first speaks for both, and reads what it wrote itself; the processes find each other once only."""
    random_transformers(tmp_path / "model", "olmoe", num_experts=16, num_experts_per_tok=2)
    data = texts(tmp_path)
    (tmp_path / "two.py").write_text(TWO_COMMANDS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(tmp_path / "two.py"), str(tmp_path / "model"), str(data)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    decoder = json.JSONDecoder()
    printed, end = decoder.raw_decode(done.stdout)
    assert printed == json.loads((tmp_path / "p" / "profile.json").read_text())
    compared = json.loads(done.stdout[end:])
    assert compared["direction"]
    options = {"backend": "torch", "max_length": 24}
    for pair, dataset, few in (("p/model/math", "math", 12), ("p/model/texts", data, 12), ("c/a_model", data, None)):
        whole = analyze(tmp_path / "model", dataset, max_samples=few, **options)
        shared = RoutingStats.load(tmp_path / f"{pair}.json")
        assert shared.clusters == whole.clusters
        for number in range(3):
            np.testing.assert_array_equal(shared.sums(number).counts, whole.sums(number).counts)


def test_processes_that_do_not_find_each_other_say_so_before_they_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MoebenchError, match="2 processes share the work, but they do not find each other"):
        analyze(None, "math", backend="torch", max_samples=2)


def test_parity_of_backends_is_a_matter_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fallback import backend

    monkeypatch.setattr(backend.Torch, "ranks", lambda self: (0, 2))
    with pytest.raises(MoebenchError, match="without torchrun"):
        parity(None, "math", ("torch", "numpy"), max_samples=2)
