"""Where things are in the checkout."""

import pathlib

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / 'tests' / 'golden'  # Numbers of the authors' own code, and what this project's numbers were.
