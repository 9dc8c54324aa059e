"""Type text in a browser and see how it is routed: the script of that name, as `mlx-moebench demo`.

python scripts/demo_gradio.py                     # the embedded model
python scripts/demo_gradio.py --model ./checkpoint --adapter-path ./adapters
"""

from __future__ import annotations

import sys

from mlx_moebench.cli import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
