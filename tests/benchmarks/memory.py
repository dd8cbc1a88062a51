"""Resident memory of this process, in bytes."""

import contextlib
import resource
import sys


def restart_peak():
    """Forget the peak so far (Linux; elsewhere the peak is that of the whole process)."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")


def peak():
    """Return the peak since `restart_peak`."""
    try:
        return _status("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def now():
    """Return what is resident now; nan where the system does not tell."""
    try:
        return _status("VmRSS")
    except OSError:
        return float("nan")


def _status(key):
    with open("/proc/self/status") as stream:
        for line in stream:
            if line.startswith(key):
                return 1024 * int(line.split()[1])
    raise OSError(f"no {key} in /proc/self/status")
