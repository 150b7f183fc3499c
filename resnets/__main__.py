"""The entry of `resnets` and `python -m resnets`: Ctrl-C ends both with exit code 130.

This file imports nothing slow, so that Ctrl-C is silent also while modules are imported.
"""

import signal
import sys


def main() -> None:
    """Run the command line."""
    try:
        from resnets.cli.main import main as run

        run()
    except BaseException as error:
        if not _is_interruption(error):
            raise
        sys.exit(130)
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # silent while Python cleans up


def _is_interruption(error: BaseException | None) -> bool:
    """Whether Ctrl-C caused an error: extension modules report it as a failed import."""
    if isinstance(error, ImportError):
        return _is_interruption(error.__cause__ or error.__context__)
    return isinstance(error, KeyboardInterrupt)


if __name__ == "__main__":
    main()
