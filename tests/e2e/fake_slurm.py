"""A cluster of as many nodes as a job asks for, as Slurm's commands show it: the name of the link is the command.

Jobs run on this machine, in the folder $FAKE_SLURM. A file `hold` in it keeps jobs in the queue, and
`refuse` lets sbatch fail with its text; with `no-requeue` no job returns. `scontrol preempt ID` and
`preempt-requeue` do what preemptions do, `fail` what the death of a node does, and `kill-node`
ends all processes of the second node without a word.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(os.environ.get("FAKE_SLURM", "."))
GRACE_SECONDS = 20.0


def job(number: str) -> Path:
    return ROOT / f"job-{number}.json"


def read(number: str) -> dict:
    return json.loads(job(number).read_text())


def change(number: str, **what: object) -> None:
    partial = job(number).with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({**read(number), **what}))
    partial.replace(job(number))


def send(number: str, sent: int) -> None:
    """Send a signal to all processes of a job but its shell, as slurmstepd does."""
    try:
        shell = psutil.Process(read(number)["pid"])
        processes = shell.children(recursive=True)
    except psutil.Error:
        return
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(sent)


def end(number: str) -> None:
    """Send SIGTERM, and SIGKILL to what is left after the grace time."""
    pid = read(number)["pid"]
    everybody = psutil.Process(pid).children(recursive=True) if psutil.pid_exists(pid) else []
    send(number, signal.SIGCONT)
    send(number, signal.SIGTERM)
    _, left = psutil.wait_procs(everybody, GRACE_SECONDS)
    for process in left:
        process.kill()


def sbatch(script: str) -> None:
    refusal = ROOT / "refuse"
    if refusal.exists():
        sys.exit(refusal.read_text())
    number = str(1 + sum(1 for _ in ROOT.glob("job-*.json")))
    text = Path(script).read_text()
    copy = ROOT / f"script-{number}.sh"
    copy.write_text(text)
    job(number).write_text(json.dumps({"state": "PENDING", "pid": 0, "script": script}))
    subprocess.Popen(
        [sys.executable, __file__, "--control", number],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print(f"Submitted batch job {number}")


def control(number: str) -> None:
    """Run a job, again and again while it is put back."""
    nodes = re.search(r"#SBATCH --nodes=(\d+)", (ROOT / f"script-{number}.sh").read_text())
    environment = {**os.environ, "SLURM_JOB_ID": number, "SLURM_NNODES": nodes[1] if nodes else "1"}
    environment |= {"SLURM_NTASKS": environment["SLURM_NNODES"], "SLURMD_NODENAME": "127.0.0.1"}
    starts = 0
    while True:
        while (ROOT / "hold").exists() and read(number)["state"] == "PENDING":
            time.sleep(0.05)
        if read(number)["state"] != "PENDING":
            return
        environment["SLURM_RESTART_COUNT"] = str(starts)
        starts += 1
        shell = subprocess.Popen(
            ["bash", str(ROOT / f"script-{number}.sh")], env=environment, start_new_session=True
        )
        change(number, state="RUNNING", pid=shell.pid)
        shell.wait()
        if read(number)["state"] != "REQUEUED":
            change(number, state="COMPLETED" if shell.returncode == 0 else "FAILED")
            return
        change(number, state="PENDING")


def srun(*arguments: str) -> None:
    rest = list(arguments)
    output = ""
    while rest[0].startswith("--"):
        option = rest.pop(0)
        if option == "--output":
            output = rest.pop(0)
    output = output.replace("%j", os.environ["SLURM_JOB_ID"])
    for sent in (signal.SIGTERM, signal.SIGUSR2):  # they are for the tasks, and it waits for these
        signal.signal(sent, lambda *_: None)
    tasks = []
    for number in range(int(os.environ["SLURM_NNODES"])):
        of_task = {"SLURM_PROCID": str(number), "SLURM_NODEID": str(number)}
        with Path(output.replace("%t", str(number))).open("ab") as file:
            tasks.append(
                subprocess.Popen(rest, stdout=file, stderr=file, env={**os.environ, **of_task})
            )
    sys.exit(max([abs(task.wait()) for task in tasks]))


def squeue(*_: str) -> None:
    for file in ROOT.glob("job-*.json"):
        number = file.stem.partition("-")[2]
        if (state := read(number)["state"]) not in ("COMPLETED", "FAILED", "CANCELLED"):
            print(f"{number}|{state}|{read(number)['script']}")


def scancel(number: str, *more: str) -> None:
    if more:
        send(number, getattr(signal, f"SIG{more[0].partition('=')[2]}"))
        return
    was = read(number)["state"]
    change(number, state="CANCELLED")
    if was == "RUNNING":
        end(number)


def scontrol(what: str, number: str) -> None:
    if what == "requeue" and (ROOT / "no-requeue").exists():
        sys.exit("Requested operation is presently disabled for job")
    if what == "kill-node":
        for process in psutil.Process(read(number)["pid"]).children(recursive=True):
            if process.environ().get("SLURM_PROCID") == "1":
                process.kill()
        return
    if what != "preempt":
        change(number, state="REQUEUED")
    if what in ("preempt", "preempt-requeue"):
        end(number)
        return
    for process in psutil.Process(read(number)["pid"]).children(recursive=True):
        if process.pid not in (os.getpid(), os.getppid()) or what == "fail":
            process.kill()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--control"]:
        control(sys.argv[2])
    else:
        name = Path(sys.argv[0]).name
        assert re.fullmatch("sbatch|srun|squeue|scancel|scontrol", name), shlex.join(sys.argv)
        globals()[name](*sys.argv[1:])
