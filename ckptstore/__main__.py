"""The command ``python -m ckptstore``."""

from ckptstore.cli import main

main()
