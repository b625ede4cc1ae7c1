"""Runs a command again and again, killing it -9 at moments of its work with files.

    python kills.py OUT ACTS COMMAND ...

prints a line of JSON for each run: first a whole one, with how many acts it had (files of OUT that
it opened, renamed, deleted, listed); then one for each of ACTS moments spread over them, killed
there and run again to its end. Each line has the digests of the files in OUT when all was done.

Runs are forks of this process, which has imported everything and computed nothing. Moments are
counted in acts, not in time, so that they are the same on any machine.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

ACTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}


def run(command, out, kill_at=0):
    """The command in a process of its own: (acts, status), the status -9 if it was killed."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        acts = os.read(reading, 16)
        os.close(reading)
        _, status = os.waitpid(process, 0)
        return int(acts or 0), os.waitstatus_to_exitcode(status)
    os.close(reading)
    os.dup2(2, 1)  # what a command prints is not for our reader
    acts = 0

    def count(event, arguments):
        nonlocal acts
        if event in ACTS and arguments and out in str(arguments[0]):
            acts += 1
            if acts == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    status = 0
    try:
        from overtone.cli.app import main

        main(command)
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
        status = 3
    os.write(writing, str(acts).encode())
    os._exit(status)


def digests(out):
    """What has to be the same, whatever happened on the way."""
    found = {}
    for file in sorted(Path(out).rglob("*")):
        if file.is_file() and file.suffix in (".safetensors", ".png", ".bin"):
            name = file.relative_to(out).as_posix()
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        if file.name == "log.jsonl":
            lines = map(json.loads, file.read_text().splitlines())
            found[file.relative_to(out).as_posix()] = [
                (line["images"], line.get("loss"), line.get("held_out_loss")) for line in lines
            ]
        if file.name.startswith(".writing-"):
            found[file.relative_to(out).as_posix()] = "left behind"
    return found


def main():
    out, moments, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    import overtone.cli.data
    import overtone.cli.distill
    import overtone.cli.sample
    import overtone.cli.train
    import overtone.training.experts
    import overtone.training.train  # noqa: F401

    acts, status = run(command, out)
    print(json.dumps({"acts": acts, "status": status, "files": digests(out)}), flush=True)
    for number in range(moments):
        shutil.rmtree(out)
        kill_at = 1 + number * (acts - 1) // max(moments - 1, 1)
        _, killed = run(command, out, kill_at)
        _, status = run(command, out)
        line = {"kill_at": kill_at, "killed": killed, "status": status, "files": digests(out)}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
