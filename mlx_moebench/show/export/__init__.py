"""What a report holds, for sharing: a Markdown summary, one tidy table, the block of a model card."""

from .card import to_card
from .summary import to_markdown
from .tidy import COLUMNS, to_csv

__all__ = ["COLUMNS", "to_card", "to_csv", "to_markdown"]
