"""`python -m overtone` and `torchrun -m overtone` are the `overtone` command."""

from overtone.cli.app import main

main()
