"""Entry of ``python -m diffusion_sklearn``."""

import sys

from diffusion_sklearn.cli import main

if __name__ == "__main__":
    sys.exit(main())
