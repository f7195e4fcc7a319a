"""How a command ends badly: one line on standard error, the error's own exit status."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from nydus_app.daemon.log import hold_log
from nydus_app.errors import NydusError


def end(prefix: str, error: NydusError) -> NoReturn:
    """Newlines of a cause (a file name may hold one) do not make two lines of it."""
    print(f"{prefix} {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(error.exit_code)


def guarded(prefix: str, main: Callable[[], int]) -> NoReturn:
    """Run a command's body; NYDUS_DEBUG=1 shows where an error came from."""
    hold_log()
    try:
        sys.exit(main())
    except NydusError as e:
        if os.environ.get("NYDUS_DEBUG"):
            traceback.print_exc()
        end(prefix, e)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as e:
        if os.environ.get("NYDUS_DEBUG"):
            traceback.print_exc()
        print(f"{prefix} unexpected {type(e).__name__}: {e} (NYDUS_DEBUG=1 shows where)", file=sys.stderr)
        sys.exit(1)
