"""Entry of slurm-gsp-reboot. Exit 0: a worker of its own takes care of the reboot; else nobody does."""

import sys

# The launcher names this file by its absolute path, and Python does not look for the package anywhere else.
sys.path.insert(0, __file__.rsplit("/", 3)[0])


def run() -> int:
    """Start the worker."""
    from slurm_gsp.node.reboot import main  # noqa: PLC0415 - it can be found only now

    return main()


sys.exit(run())
