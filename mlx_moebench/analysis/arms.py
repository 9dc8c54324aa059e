"""Arms of a quantisation: bits of the weights and of the routers, as a command line names them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from ..errors import MoebenchError, did_you_mean
from ..options import BITS, ROUTER_BITS, UNQUANTISED, Loading
from ..routing.record import PRECISE_ROUTER_BITS

STORED = "stored"
"""Of weights or routers that are left as the checkpoint has them."""


@dataclass(frozen=True)
class Arm:
    """Bits of all weights but the routers', and of the routers; None leaves them as stored."""

    bits: int | None
    router_bits: int | None

    @property
    def name(self) -> str:
        """``4/8``, ``stored/4``, ``4/stored``."""
        return f"{self.bits or STORED}/{self.router_bits or STORED}"

    @property
    def words(self) -> str:
        """``weights 4 bit, routers 8 bit``."""
        parts = (("weights", self.bits), ("routers", self.router_bits))
        return ", ".join(f"{what} {f'{bits} bit' if bits else 'as stored'}" for what, bits in parts)

    def of(self, loading: Loading) -> Loading:
        """``loading``, quantised so."""
        return replace(loading, bits=self.bits, router_bits=self.router_bits or UNQUANTISED)

    @classmethod
    def named(cls, text: str) -> Self:
        """The arm WEIGHTS/ROUTERS, or WEIGHTS with routers as `models.load_checkpoint` quantises them by default.

        Raises `MoebenchError` for what is none, with the nearest one that is.

        >>> Arm.named("4"), Arm.named("stored/4").name
        (Arm(bits=4, router_bits=8), 'stored/4')
        """
        weights, slash, routers = text.strip().lower().partition("/")
        weights, routers = (STORED if part == str(UNQUANTISED) else part for part in (weights, routers))
        name = f"{weights}{slash}{routers}"
        if name in (STORED, f"{STORED}/{STORED}"):
            raise MoebenchError(
                f"The arm {text!r} quantises nothing and is the reference itself: write WEIGHTS/ROUTERS, such as 4/8."
            )
        if name not in _KNOWN:
            hint = f" Did you mean 'stored/{routers}'?" if weights in ("-", "", "none") and routers in _KNOWN else ""
            raise MoebenchError(
                f"There is no arm {text!r}: write WEIGHTS/ROUTERS in bits, such as 4/8, or stored/8 for the routers "
                f"alone.{hint or did_you_mean(name, list(_KNOWN))}"
            )
        bits, router_bits = _KNOWN[name]
        return cls(bits, router_bits)


def _known() -> dict[str, tuple[int | None, int | None]]:
    """Every arm by its spellings."""
    known: dict[str, tuple[int | None, int | None]] = {}
    routers = [bits for bits in ROUTER_BITS if bits != UNQUANTISED]
    for bits in BITS:
        known[str(bits)] = (bits, max(PRECISE_ROUTER_BITS, bits))
        known |= {f"{bits}/{r}": (bits, r) for r in routers} | {f"{bits}/{STORED}": (bits, None)}
    return known | {f"{STORED}/{r}": (None, r) for r in routers}


_KNOWN = _known()


def arms_named(texts: tuple[str, ...] | list[str]) -> list[Arm]:
    """The arms of these names, each once, in their order; raises `MoebenchError` as `Arm.named` does."""
    return list(dict.fromkeys(Arm.named(text) for text in texts))
