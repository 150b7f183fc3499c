"""`python -m resnets` is `resnets`."""

from resnets.cli.main import main

main()
