"""The studio as a process of its own."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx


@contextmanager
def served(folder, pipes, options=(), ended=(0, 130)):
    """`overtone studio` with some pipelines, saved in a directory under their names: the process,
    and its address. Its exit status is one of `ended`."""
    for name, pipe in pipes.items():
        pipe.save_pretrained(folder / name)
    command = [sys.executable, "-m", "overtone", "studio", *pipes, "--port", "0", *options]
    env = os.environ | {"TMPDIR": str(folder), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
    said = [process.stderr.readline()]
    reader = threading.Thread(target=lambda: said.extend(process.stderr))
    reader.start()
    try:
        found = re.search(r"http://\S+", said[0])
        assert found, said
        for _ in range(600):
            try:
                httpx.get(found[0])
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield process, found[0]
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(30)
        reader.join()
        process.stderr.close()
    assert status in ended, said
    assert not any("Traceback" in line for line in said), "".join(said)
