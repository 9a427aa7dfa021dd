"""The Python half of the three hooks: standard library only, run by the launchers with ``python -I -S``."""
