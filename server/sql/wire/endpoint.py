"""tls-server-end-point: the hash of the server's certificate that binds a login to its TLS.

Source: RFC 5929, section 4.1: the hash is that of the certificate's signature, SHA-256 in place of
MD5 and SHA-1. Signatures that name no single hash (Ed25519, RSA-PSS) have no such binding.
"""

from __future__ import annotations

import hashlib
import ssl

#: Object identifiers, in DER, of signature algorithms and their hashes (RFC 4055, RFC 5758).
_HASHES = {
    bytes.fromhex("2a864886f70d010104"): "sha256",  # md5WithRSAEncryption
    bytes.fromhex("2a864886f70d010105"): "sha256",  # sha1WithRSAEncryption
    bytes.fromhex("2a864886f70d01010b"): "sha256",
    bytes.fromhex("2a864886f70d01010c"): "sha384",
    bytes.fromhex("2a864886f70d01010d"): "sha512",
    bytes.fromhex("2a8648ce3d0401"): "sha256",  # ecdsa-with-SHA1
    bytes.fromhex("2a8648ce3d040302"): "sha256",
    bytes.fromhex("2a8648ce3d040303"): "sha384",
    bytes.fromhex("2a8648ce3d040304"): "sha512",
}

_END = "-----END CERTIFICATE-----"


def endpoint_binding(pem: str) -> bytes | None:
    """Return the binding of the first certificate of ``pem``; None where there is none."""
    start = pem.find("-----BEGIN CERTIFICATE-----")
    end = pem.find(_END, start)
    if start < 0 or end < 0:
        return None
    der = ssl.PEM_cert_to_DER_cert(pem[start : end + len(_END)])
    name = _HASHES.get(_signature_algorithm(der))
    return None if name is None else hashlib.new(name, der).digest()


def _signature_algorithm(der: bytes) -> bytes:
    """Return the OID in Certificate ::= SEQUENCE { tbs, SEQUENCE { OID, ... }, signature }."""
    inside, _ = _element(der, 0)
    _, after_tbs = _element(der, inside)
    algorithm, _ = _element(der, after_tbs)
    start, end = _element(der, algorithm)
    return der[start:end]


def _element(der: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the element at ``at`` starts and ends."""
    size, start = der[at + 1], at + 2
    if size & 0x80:
        digits = size & 0x7F
        size = int.from_bytes(der[start : start + digits], "big")
        start += digits
    return start, start + size
