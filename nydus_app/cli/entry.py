"""Where the commands begin: so light that Ctrl-C ends them quietly while all the rest is still being loaded.

`guarded` (`ending.py`) gives the signal back to Python as soon as there is something to undo.
"""

import signal


def _end_quietly() -> None:
    """Who started us with the signal ignored, as shells do in the background, keeps his wish."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def nydusd() -> None:
    _end_quietly()
    from nydus_app.cli.nydusd import main

    main()


def nydus_run() -> None:
    _end_quietly()
    from nydus_app.cli.run import main

    main()


def nydus_bench() -> None:
    _end_quietly()
    from nydus_app.cli.bench import main

    main()
