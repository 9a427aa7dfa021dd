"""The lab: a real Slurm whose GPU nodes exist only as files, namespaces and small programs."""
