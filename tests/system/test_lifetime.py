"""Who asks a run to stop, and how often."""

import signal

from difnet.system.lifetime import stop_signals


def test_a_terminal_that_closes_asks_once_however_often_it_is_told_and_nobody_asks_in_vain_after_it():
    with stop_signals() as asked:
        for sig in (signal.SIGHUP, signal.SIGHUP):
            signal.raise_signal(sig)
        assert asked == [signal.SIGHUP]
        signal.raise_signal(signal.SIGINT)
        assert asked == [signal.SIGHUP, signal.SIGINT], "which kills"


def test_what_nohup_has_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as asked:
            signal.raise_signal(signal.SIGHUP)
            assert asked == [] and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
