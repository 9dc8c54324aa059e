"""Write the JSON schemas in mlx_moebench/routing/schema from the classes of mlx_moebench/pair/format.

python scripts/make_schemas.py
"""

from __future__ import annotations

from mlx_moebench.pair.format import FILES, FOLDER, schema_text


def main() -> None:
    for name in FILES:
        (FOLDER / f"{name}.schema.json").write_text(schema_text(name), encoding="utf-8")


if __name__ == "__main__":
    main()
