"""`python -m resnets` is `resnets`."""

import sys

try:
    from resnets.cli.main import main
except KeyboardInterrupt:  # while modules are read
    sys.exit(130)

if __name__ == "__main__":
    main()
