"""A worker that starts at once and obeys its job: it sleeps, exits, or ignores messages."""

from __future__ import annotations

import os
import queue
import runpy
import sys
import threading

messages = runpy.run_path(sys.argv[1])  # without the package, which imports torch
packed, read_message = messages["packed"], messages["read_message"]


def send(about: dict, data: bytes = b"") -> None:
    for part in packed(about, data):
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


def main() -> None:
    settings, _ = read_message(sys.stdin.buffer)
    if "broken" in settings:
        send({"error": "broken settings"})
        return
    if "silent" in settings:
        return
    send({"settings": settings})
    jobs: queue.SimpleQueue = queue.SimpleQueue()
    stop = threading.Event()

    def listen() -> None:
        try:
            while True:
                about, data = read_message(sys.stdin.buffer)
                if "stop" in about:
                    stop.set()
                else:
                    stop.clear()
                    jobs.put((about, data))
        except EOFError:
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        about, data = jobs.get()
        options = about["options"]
        if options.get("die"):
            os._exit(3)
        if options.get("deaf"):
            threading.Event().wait(60)
        stopped = stop.wait(options.get("sleep", 0))
        send({"pid": os.getpid(), "stopped": stopped, "job": about["job"]}, data[::-1])


main()
