"""Defines the certificates whose expiry the gateway monitors, and their validity periods."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

_WEEK = 7 * 86400.0


class ValidityPeriod(NamedTuple):
    """The beginning and end of a certificate's validity, in seconds since the epoch (`time.time()`)."""

    begins: float
    expires: float

    def expires_soon(self, now: float) -> bool:
        """Return whether the remaining time is less than a week and less than a third of the validity period.

        Args:
            now: The current time, in seconds since the epoch.
        """
        return self.expires - now < min((self.expires - self.begins) / 3, _WEEK)


@dataclass(frozen=True)
class MonitoredCertificate:
    """A certificate whose expiry the gateway monitors: one that the gateway uses, or one that a server presented.

    Args:
        kind: What the certificate is for.
        name: The path of the certificate's file, or the address of the server that presented the certificate.
        validity: The certificate's validity period.
    """

    kind: Literal["ssh_certificate", "tls", "vpn"]
    name: str
    validity: ValidityPeriod
