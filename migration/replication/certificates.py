"""The relays' certificates: an authority of the installation's own, and mutual TLS by it.

Folder of an authority:
    authority.key, authority.pem    what signs; the key never leaves the machine that issues
    trusted.pem                     authorities that are believed: after `rotate` the old one too,
                                    until it is retired
Folder of a relay: trusted.pem, relay.key, relay.pem
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS, RELAY_DAYS = 3650, 90
# Clocks of two regions may differ.
SKEW = timedelta(minutes=5)


class Authority:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def create(cls, folder: Path, *, now: datetime | None = None) -> Authority:
        """Raises FileExistsError rather than put a new one in the place of another."""
        if (folder / "authority.key").exists():
            raise FileExistsError(f"There is an authority in {folder} already; rotate it.")
        folder.mkdir(parents=True, exist_ok=True)
        authority = cls(folder)
        authority._make(now or datetime.now(UTC))
        (folder / "trusted.pem").write_bytes((folder / "authority.pem").read_bytes())
        return authority

    def rotate(self, *, now: datetime | None = None) -> None:
        """A new key signs from now on; the old one's certificates are believed until `retire`.
        Hand trusted.pem to all relays before issuing any certificate by the new key."""
        self._make(now or datetime.now(UTC))
        new = (self._folder / "authority.pem").read_bytes()
        trusted = self._folder / "trusted.pem"
        _write(trusted, new + trusted.read_bytes())

    def retire(self) -> None:
        """Believe the present authority only."""
        _write(self._folder / "trusted.pem", (self._folder / "authority.pem").read_bytes())

    def issue(
        self, name: str, folder: Path, *, days: float = RELAY_DAYS, now: datetime | None = None
    ) -> None:
        """A key and certificate for the relay of this name, in its folder."""
        now = now or datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        signer = serialization.load_pem_private_key(
            (self._folder / "authority.key").read_bytes(), password=None
        )
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        issuer = x509.load_pem_x509_certificate((self._folder / "authority.pem").read_bytes())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        certificate = (
            _described(name, key, now, timedelta(days=days))
            .issuer_name(issuer.subject)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_authority_key(issuer), critical=False)
            .sign(signer, hashes.SHA256())
        )
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "relay.key", _pem(key))
        _write(folder / "relay.pem", certificate.public_bytes(serialization.Encoding.PEM))
        _write(folder / "trusted.pem", (self._folder / "trusted.pem").read_bytes())

    def _make(self, now: datetime) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = f"relays of {now:%Y-%m-%d %H:%M:%S}"
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        subject_key = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            _described(name, key, now, timedelta(days=AUTHORITY_DAYS))
            .issuer_name(_name(name))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(subject_key, critical=False)
            .sign(key, hashes.SHA256())
        )
        _write(self._folder / "authority.key", _pem(key))
        _write(self._folder / "authority.pem", certificate.public_bytes(serialization.Encoding.PEM))


def expires_at(folder: Path) -> datetime:
    """When the certificate of the relay in this folder ends."""
    return x509.load_pem_x509_certificate((folder / "relay.pem").read_bytes()).not_valid_after_utc


def _described(
    name: str, key: ec.EllipticCurvePrivateKey, now: datetime, lasting: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + lasting)
    )


def _authority_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    key = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key.value)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, data: bytes) -> None:
    """Readable by its owner only, all or nothing."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "wb") as stream:
        stream.write(data)
    part.replace(path)
