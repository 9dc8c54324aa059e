"""``python -m torch_fallback analyze ...``: the command line of mlx-moebench with --backend torch."""

from mlx_moebench.cli import main

main(prog_name="python -m torch_fallback", backend="torch")
