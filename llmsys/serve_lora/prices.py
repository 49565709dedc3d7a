"""What a device-hour and a gigabyte-hour cost: a TOML file, or device-hours as their own currency.

    currency = "USD"
    device_per_hour = 2.49
    host_ram_gb_per_hour = 0.004      # keys and values held, GB = 1e9 bytes

Knows nothing of who used what.
"""

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

from llmsys.errors import BadInput

__all__ = ["PriceList", "read_prices"]

Amount = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
SECONDS_PER_HOUR = 3600.0
BYTES_PER_GB = 1e9


class PriceList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prices in one currency; without a file an hour of a device costs one device-hour and memory nothing."""

    currency: str = "device-hours"
    device_per_hour: Amount = 1.0
    host_ram_gb_per_hour: Amount = 0.0

    def of_device(self, seconds: float) -> float:
        """Price of so many device seconds."""
        return seconds / SECONDS_PER_HOUR * self.device_per_hour

    def of_memory(self, byte_seconds: float) -> float:
        """Price of memory held: bytes times seconds."""
        return byte_seconds / BYTES_PER_GB / SECONDS_PER_HOUR * self.host_ram_gb_per_hour


def read_prices(path: Path | None) -> PriceList:
    """Read a price list; None is the list without prices. Raises BadInput that names the key."""
    if path is None:
        return PriceList()
    right = f"TOML with {', '.join(PriceList.__struct_fields__)}"
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), PriceList)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise BadInput(str(path), str(error), right) from error
