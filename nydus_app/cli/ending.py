"""How a command ends badly: one line on standard error, the error's own exit status."""

import gc
import os
import signal
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


def innermost(error: BaseException) -> BaseException:
    """A nursery wraps what one task raises; a person wants to know the one."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def guarded(prefix: str, main: Callable[[], int]) -> NoReturn:
    """Run a command's body; NYDUS_DEBUG=1 shows where an error came from.

    The garbage collector rests until the builder is ready to serve: it would look through what
    imports have made again and again, which is a tenth of the start.
    """
    gc.disable()
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        hold_log()
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
        cause = innermost(e)
        text = " ".join(str(cause).split())
        print(f"{prefix} unexpected {type(cause).__name__}: {text} (NYDUS_DEBUG=1 shows where)", file=sys.stderr)
        sys.exit(1)
