"""Being asked to stop: by a cluster, a container's host or ``kill``."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from types import FrameType

log = logging.getLogger(__name__)

STOP = (signal.SIGTERM, signal.SIGUSR1)
"""What Kubernetes and Slurm send some time before they kill, and what Slurm sends when it is asked to
(``--signal=USR1@90``), after which the job asks to be queued again."""


class Stopped(BaseException):
    """A signal asked the run to end.

    Attributes:
        signal: which.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signal = signal.Signals(signum)


class StopSignals:
    """Raises :class:`Stopped` in the main thread when a signal of :data:`STOP` comes: at once, unless it is to wait.

    Only the first signal counts: what is written because of it is not disturbed by the next.

    Attributes:
        received: the signal that came.
        patience: for so many seconds a signal waits for :meth:`stop`, as processes that compute together should end
            together.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.patience = 0.0
        self._held = False
        self._raised = False
        self._process = os.getpid()

    def install(self) -> None:
        """Listen, instead of whoever did; outside the main thread nobody can."""
        if threading.current_thread() is threading.main_thread():
            for signum in (*STOP, signal.SIGALRM):
                signal.signal(signum, self._handle)

    def hold(self) -> None:
        """From now on a signal waits for :meth:`release`."""
        self._held = True

    def release(self) -> None:
        """No longer.

        Raises:
            Stopped: when a signal came meanwhile, and there is no patience.
        """
        self._held = False
        if self.received is not None:
            self._wait_or_stop()

    def stop(self) -> None:
        """Raise Stopped, for a signal that came here or, where processes compute together, to another one."""
        self._raised = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Stopped(signal.SIGTERM if self.received is None else self.received)

    def _wait_or_stop(self) -> None:
        if self.patience:
            signal.setitimer(signal.ITIMER_REAL, self.patience)
        else:
            self.stop()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process or self._raised:  # a loader's process, which inherits the handler; or again
            return
        late = signum == signal.SIGALRM
        if not late:
            self.received = signum
        if not self._held:
            if late:
                self.stop()
            self._wait_or_stop()


def requeue() -> bool:
    """Ask Slurm to queue this job again; whether it will. Does nothing outside Slurm and in all but one process."""
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
