"""How long 200 BMCs take, one after the other and at once: emulated ones on loopback, over TLS.

    .venv/bin/python bench/bmc_bench.py [--bmcs 200] [--components 20] [--delay 0.05]

Each emulated BMC waits before every answer, as real ones do; asking and emulating share this machine's cores.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import trustme

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/unit/bmc"))

from fault_bmc import Certificate
from sushy_bmcs import PASSWORD, USER, emulated

from slurm_gsp.core.reading import Known
from slurm_gsp.redfish.site import Access, Site
from slurm_gsp.redfish.sweep import library_reader, sweep


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bmcs", type=int, default=200)
    parser.add_argument("--components", type=int, default=20)
    parser.add_argument("--delay", type=float, default=0.05)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 8, 32, 64])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure(given, Path(name))


def measure(given: argparse.Namespace, folder: Path) -> None:
    hosts = [f"127.0.1.{number}" for number in range(1, given.bmcs + 1)]
    ca = trustme.CA()
    leaf = ca.issue_cert(*hosts)
    ca.cert_pem.write_to_path(folder / "ca.pem")
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    leaf.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    certificate = Certificate(str(folder / "cert.pem"), str(folder / "key.pem"))
    versions = {"*": {f"PART_{number}": "1.0" for number in range(given.components)}}
    access = Access(USER, PASSWORD, "basic", str(folder / "ca.pem"))
    library_reader(access)  # imports are not what is measured
    print(f"{given.bmcs} BMCs, {given.components} components each, {given.delay * 1000:g} ms an answer")
    with emulated(hosts, versions, certificate, folder, given.delay) as addresses:
        nodes = {f"n{number}": address for number, address in enumerate(addresses)}
        for concurrency in given.at_once:
            site = Site(access, "", nodes, concurrency, deadline_s=300, total_s=3600)
            begun, cpu = time.monotonic(), cpu_s()
            found = sweep(nodes, site)
            wall, cpu = time.monotonic() - begun, cpu_s() - cpu
            read = sum(isinstance(answer, Known) for answer in found.values())
            told = f"{wall:6.1f} s, {1000 * cpu / len(found):4.0f} ms of CPU for each"
            print(f"{concurrency:3} at once: {told}, {read} read", flush=True)


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
