"""Makes tests/elfbuilder.py importable, and lets slow machines take their time."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parents[2]))
settings.register_profile("parse", deadline=None, max_examples=150)
settings.load_profile("parse")
