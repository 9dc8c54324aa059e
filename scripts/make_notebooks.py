"""Run the notebooks of docs/notebooks and keep what they print: `make notebooks`.

Each runs in a folder of its own, on one thread, so that rounding is the same each time.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from unittest.mock import patch

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs; raises nbclient's CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    settings = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    settings["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm's, of widgets that are not needed
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, settings):
        place = {"metadata": {"path": folder}}
        quiet = ["--log-level=ERROR"]
        NotebookClient(notebook, kernel_name="python3", extra_arguments=quiet, resources=place).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the time of day
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main() -> None:
    for path in NOTEBOOKS:
        print(path.relative_to(ROOT), flush=True)
        nbformat.write(executed(path), path)


if __name__ == "__main__":
    main()
