"""How commands end: a user's mistake is one sentence on stderr and exit code 2."""

import sys
from collections.abc import Callable

from vxlpro_jax.config import InputError


def run(main: Callable[[], int | None]) -> None:
    """Runs a command and exits with its code."""
    try:
        code = main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code or 0)
