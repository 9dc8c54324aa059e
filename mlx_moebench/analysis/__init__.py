"""The questions one can ask of a model's routers."""

from .analyze import analyze, analyze_generation
from .keep import check_replaceable, decode_output
from .profile import Profile, profile, profile_of_stats

__all__ = [
    "Profile",
    "analyze",
    "analyze_generation",
    "check_replaceable",
    "decode_output",
    "profile",
    "profile_of_stats",
]
