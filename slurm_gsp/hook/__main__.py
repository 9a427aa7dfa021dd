"""Entry of the hooks: ``__main__.py HOOK WHY [--report-only]``. Exit 0 fine, 10 finding, else our fault."""

import os
import sys

# What is written here is sourced as root: nobody else may write it, whatever slurmd was started with.
os.umask(0o022)

# The launcher starts Python without any site path, and names this file by its absolute path.
sys.path.insert(0, __file__.rsplit("/", 3)[0])


def run(arguments: list[str]) -> int:
    """The light look when that is all that is due, else the whole hook."""
    if arguments[:2] == ["healthcheck", "due"]:
        from slurm_gsp.hook.log_look import nothing_new

        with open("/proc/uptime", encoding="ascii") as file:
            if nothing_new(float(file.read().split()[0])):
                return 0
    from slurm_gsp.hook.main import main

    return main(arguments)


sys.exit(run(sys.argv[1:]))
