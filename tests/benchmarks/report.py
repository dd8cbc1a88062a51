"""What every benchmark writes down: where it ran, its numbers, its table."""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess


def machine():
    """Return the processor, the cores this process may use, the GPUs, the system, the day."""
    processor = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as stream:
            models = [line for line in stream if line.startswith("model name")]
        processor = models[0].split(":")[1].strip() if models else processor
    cores = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return {
        "processor": processor,
        "cores": cores,
        "gpus": gpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def gpus():
    """Return "name, driver" of each NVIDIA GPU that the driver tells of."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def versions(*packages):
    """Return package -> version, None for what is not installed."""
    found = dict.fromkeys(packages)
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def where(result):
    """Return one line that names the machine and the versions of a result."""
    machine = result["machine"]
    devices = "".join(f"{gpu} (driver); " for gpu in machine["gpus"])
    packages = ", ".join(f"{p} {v}" for p, v in result["versions"].items() if v)
    quick = " Quick run." if result["quick"] else ""
    return (
        f"{devices}{machine['processor']}, {machine['cores']} cores, {machine['date']}; "
        f"{packages}.{quick}"
    )


def table(head, rows):
    """Return a Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def write(folder, name, result, text):
    """Write `name`.json and `name`.md."""
    os.makedirs(folder, exist_ok=True)
    for ending, content in (("json", json.dumps(result, indent=1)), ("md", text)):
        path = os.path.join(folder, f"{name}.{ending}")
        # (The package's own `atomic` would import TensorFlow, which may live elsewhere.)
        with open(path + ".part", "w") as stream:
            stream.write(content + "\n" if ending == "json" else content)
        os.replace(path + ".part", path)
