"""Who waits at the door: wrong passwords are answered late, per address.

A right password is never delayed, whoever else tries from the same address. Of IPv6 addresses the
first 64 bits count: one machine has all of those behind them. Times are of any steady clock.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

#: Delay of the first failure, in seconds; it doubles with each up to the longest.
_FIRST_S, _LONGEST_S = 0.1, 5.0
#: Seconds without a failure after which an address is forgotten.
_FORGOTTEN_S = 60.0
#: Addresses remembered; the one that has not failed for longest goes first.
_ADDRESSES = 10_000


class Doorkeeper:
    """Remembers failed logins by address."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of addresses remembered."""
        return len(self._failures)

    def failed(self, address: str, now_s: float) -> float:
        """Note a failed login; return the seconds after which to tell the client."""
        place = _network(address)
        count, last_s = self._failures.pop(place, (0, now_s))
        count = 0 if now_s - last_s > _FORGOTTEN_S else count
        self._failures[place] = count + 1, now_s
        if len(self._failures) > _ADDRESSES:
            self._failures.popitem(last=False)
        # The exponent is bounded, so that a long flood makes no huge number.
        return float(min(_LONGEST_S, _FIRST_S * 2 ** min(count, 10)))


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False))
