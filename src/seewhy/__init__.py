"""Show why a neural network decided what it did, and how far the picture can be trusted.

Data flow: input -> model -> method -> map -> evaluation -> visualization.
The public names are listed once, in `__init__.pyi`; each is imported when it is first used.
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
