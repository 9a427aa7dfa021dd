"""slurm-gsp: keep the NVIDIA GPU nodes of a Slurm cluster on one driver version."""

__version__ = "0.1.0"
