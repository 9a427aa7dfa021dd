"""What campaigns need on a node: realign it, reload its driver, verify it, and say so in its Slurm record."""
