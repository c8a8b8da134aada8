"""The tests. They keep bytecode even where the environment forbids it: else each `inv` would compile all modules."""

import os
import sys

sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
