"""`python -m sparsesvm` is the `sparsesvm` command."""

from sparsesvm.cli import main

main()
