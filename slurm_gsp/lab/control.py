"""The control machine of a lab of a suite: a root of that suite for slurmctld, munged and the clients.

`python -m slurm_gsp.lab.control SUITE_ROOT LAB READY HOST...` builds it in its own mount namespace, makes the
file READY (a path inside of the lab's folder) and waits for SIGTERM. Processes and network stay the host's.
"""

import signal
import sys
from pathlib import Path

from slurm_gsp.lab import mounts


def main() -> None:
    lower, lab, ready, *hosts = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    base = Path(lab) / "control"
    mounts.private()
    root = mounts.overlay_root(base, "64m", Path(lower))
    mounts.system_folders(root)
    mounts.bind(lab, root / lab.lstrip("/"))
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost {' '.join(hosts)}\n")
    mounts.change_root(root)
    Path(ready).touch()
    signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    main()
