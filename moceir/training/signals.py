"""Handles requests to stop from a cluster, a container's host or ``kill``."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from types import FrameType

log = logging.getLogger(__name__)

STOP = (signal.SIGTERM, signal.SIGUSR1)
"""Kubernetes and Slurm send SIGTERM some time before they kill. Slurm sends SIGUSR1 when a job requests it
(``--signal=USR1@90``); then the job asks Slurm to queue it again."""


class Stopped(BaseException):
    """A signal asked the run to end.

    Attributes:
        signal: the signal that was received.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signal = signal.Signals(signum)


class StopSignals:
    """Raises :class:`Stopped` in the main thread when a signal in :data:`STOP` arrives, at once or after a delay.

    After Stopped was raised, later signals have no effect, so they cannot interrupt the checkpoint.

    Attributes:
        received: the signal that arrived; None before.
        patience: maximum number of seconds between a signal and Stopped, in which :meth:`stop` can be called.
            Cooperating processes use it to end at the same step. With 0, Stopped is raised at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.patience = 0.0
        self._held = False
        self._raised = False
        self._process = os.getpid()

    def install(self) -> None:
        """Replace the signals' handlers; does nothing outside the main thread, where Python does not permit it."""
        if threading.current_thread() is threading.main_thread():
            for signum in (*STOP, signal.SIGALRM):
                signal.signal(signum, self._handle)

    def hold(self) -> None:
        """Defer signals until :meth:`release`."""
        self._held = True

    def release(self) -> None:
        """Stop deferring signals.

        Raises:
            Stopped: when a signal has arrived and ``patience`` is 0.
        """
        self._held = False
        if self.received is not None:
            self._wait_or_stop()

    def stop(self) -> None:
        """Raise Stopped, for a signal that this process received or, among cooperating processes, another one."""
        self._raised = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Stopped(signal.SIGTERM if self.received is None else self.received)

    def _wait_or_stop(self) -> None:
        if self.patience:
            signal.setitimer(signal.ITIMER_REAL, self.patience)
        else:
            self.stop()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process or self._raised:  # a loader process inherits the handler
            return
        late = signum == signal.SIGALRM
        if not late:
            self.received = signum
        if not self._held:
            if late:
                self.stop()
            self._wait_or_stop()


def requeue() -> bool:
    """Ask Slurm to queue this job again, and return whether it will.

    Only the job's first process asks; elsewhere and outside Slurm, the result is False.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or os.environ.get("SLURM_PROCID", "0") != "0":
        return False
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("Slurm job %s could not be queued again (%s)", job, error)
        return False
    if asked.returncode:
        log.warning("Slurm job %s could not be queued again (%s)", job, asked.stderr.strip())
    return not asked.returncode
