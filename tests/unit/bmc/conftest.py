"""Certificates made for these tests: a CA, and what it signs for loopback addresses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from fault_bmc import Bmc, Certificate

ADDRESSES = 200


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture(scope="session")
def certificate(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """For 127.0.0.1 and for 127.0.1.1 to 127.0.1.200."""
    names = ["127.0.0.1", *(f"127.0.1.{number}" for number in range(1, ADDRESSES + 1))]
    return written(ca.issue_cert(*names), tmp_path_factory.mktemp("tls"))


def written(leaf: trustme.LeafCert, folder: Path) -> Certificate:
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    leaf.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return Certificate(str(folder / "cert.pem"), str(folder / "key.pem"))


@pytest.fixture
def bmc(certificate: Certificate) -> Iterator[Bmc]:
    """A BMC of our own that does what it is told, on loopback."""
    with Bmc(certificate) as one:
        yield one
