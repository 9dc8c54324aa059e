"""``python -m mlx_moebench`` is ``mlx-moebench``."""

from .cli import main

main()
