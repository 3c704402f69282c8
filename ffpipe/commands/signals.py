"""Signals to the program while a run is at work: those that would end it ask the run to end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from ffpipe.runs.interrupt import Interrupt

# Signals that end nothing by themselves, that no program hears of, and those of a fault, after which nothing is sure.
LEFT_ALONE = {
    *(signal.SIGCHLD, signal.SIGCONT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGURG, signal.SIGWINCH),
    *(signal.SIGKILL, signal.SIGSTOP),
    *(signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP),
}


@contextmanager
def interrupts() -> Iterator[Interrupt]:
    """Have signals that would end the program, Ctrl-C and SIGTERM first of all, ask the run to end."""
    interrupt = Interrupt()
    # Not those that are ignored, as nohup has SIGHUP, nor those that somebody else hears. The installed command has
    # given SIGTERM and SIGHUP the handler that Python has for Ctrl-C.
    ours = (signal.SIG_DFL, signal.default_int_handler)
    mute = [number for number in signal.valid_signals() - LEFT_ALONE if signal.getsignal(number) in ours]
    signals = {signal.SIGINT, signal.SIGTERM, *mute}
    before = {number: signal.signal(number, lambda *_: interrupt.request()) for number in signals}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
