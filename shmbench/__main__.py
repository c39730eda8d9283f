"""`python -m shmbench`."""

from shmbench.cli import main

main()
