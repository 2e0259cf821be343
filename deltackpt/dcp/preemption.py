"""SIGTERM: noted when it comes, acted on when the state of training is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType

__all__ = ["Preemption"]


class Preemption:
    """Takes note of SIGTERM. What would have happened without it happens at :meth:`pass_on`, or at a second SIGTERM.

    The handler does nothing else: a signal may come in the middle of an optimizer's step, where a save would keep half
    of one state and half of the next.

    Args:
        listen: whether to install the handler. Python lets only the main thread do so; elsewhere none is.
    """

    def __init__(self, listen: bool) -> None:
        self.requested = self._passed_on = False
        self._previous: signal._HANDLER = None
        self._installed = listen and threading.current_thread() is threading.main_thread()
        if self._installed:
            self._previous = signal.signal(signal.SIGTERM, self._note)

    @property
    def listens(self) -> bool:
        return self._installed

    def pass_on(self) -> None:
        """Do what SIGTERM did before, once: call the handler that was there, or end the process."""
        previous, again = self._previous, self._passed_on
        self._passed_on = True
        self.close()
        if again:
            return
        if previous == signal.SIG_DFL:
            signal.raise_signal(signal.SIGTERM)
        elif callable(previous):
            previous(signal.SIGTERM, None)

    def close(self) -> None:
        """Put the handler back that was there, if nobody has put another one in place of this."""
        in_charge = self._installed and threading.current_thread() is threading.main_thread()
        if in_charge and signal.getsignal(signal.SIGTERM) == self._note:
            signal.signal(signal.SIGTERM, self._previous)
        self._installed = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self.requested = self.requested, True
        if again:
            self.pass_on()
        elif not self._installed and callable(self._previous):
            # Somebody's handler took the place of this one, and still calls it.
            self._previous(number, frame)
