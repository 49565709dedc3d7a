"""Lets the tests of fair_queue import the modules in `support/`: the transcription and the drivers."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))
