"""Issues certificates for tests."""

import datetime as dt
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.demo.server_process import run

NAME = "db.example.test"
_NOW = dt.datetime.now(dt.UTC)


class Authority:
    """A certificate authority.

    Args:
        folder: The directory for the certificates that the authority issues.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        builder = self._builder(self._name, self._key.public_key(), 10)
        certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        certificate = certificate.add_extension(usage, True)
        self.ca = folder / "ca.pem"
        self._write(self.ca, certificate.sign(self._key, hashes.SHA256()))

    def issue(
        self, name: str, *, server: bool = False, client: bool | None = None, days: int = 2, host: str | None = None
    ) -> tuple[Path, Path]:
        """Issue a certificate; return the paths of the certificate and of its key.

        Args:
            name: The subject of the certificate, and the base name of both files.
            server: Whether the certificate is valid for a server.
            client: Whether the certificate is valid for a client; None means the opposite of `server`.
            days: The number of days until the certificate expires; a negative value creates an expired certificate.
            host: The DNS name or IP address for the subject alternative name; None for no alternative name.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usages = [ExtendedKeyUsageOID.SERVER_AUTH] if server else []
        if client or (client is None and not server):
            usages.append(ExtendedKeyUsageOID.CLIENT_AUTH)
        builder = self._builder(subject, key.public_key(), days)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), False)
        builder = builder.add_extension(
            x509.KeyUsage(True, False, False, False, True, False, False, False, False), False
        )
        if host:
            builder = builder.add_extension(x509.SubjectAlternativeName([_alternative_name(host)]), False)
        certificate_file, key_file = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        self._write(certificate_file, builder.sign(self._key, hashes.SHA256()))
        key_file.touch(mode=0o600)
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate_file, key_file

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=subject,
            public_key=key,
            serial_number=x509.random_serial_number(),
            not_valid_before=_NOW - dt.timedelta(days=5),
            not_valid_after=_NOW + dt.timedelta(days=days),
        )
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False).add_extension(
            authority, False
        )

    @staticmethod
    def _write(path: Path, certificate: x509.Certificate) -> None:
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@dataclass
class Issued:
    """A certificate for servers and clients, its key, and the certificate of its authority."""

    ca: Path
    certificate: Path
    key: Path


def issue(folder: Path, host: str = NAME, owner: str | None = None) -> Issued:
    """Create an authority, and issue a certificate for `host`.

    Args:
        folder: A new directory for the files, which all users can access.
        host: The name or address of the server.
        owner: If this process runs as root, the user that owns the key file; None means the user of this process.
    """
    authority = Authority(folder)
    folder.chmod(0o755)
    certificate, key = authority.issue(host, server=True, client=True, host=host)
    if owner is not None and os.geteuid() == 0:
        run(["chown", owner, str(key)])
    return Issued(authority.ca, certificate, key)
