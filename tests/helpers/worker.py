"""A worker that trains nothing: what it is asked for says how it ends."""

import json
import os
import signal
import sys
import time

for line in sys.stdin:
    name = line.strip()
    if name == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "exit":
        print("worker: it cannot go on.", file=sys.stderr)
        sys.exit(3)
    if name == "wait":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        time.sleep(60)
    answer = (
        {"pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}[name] if name in ("pid", "threads") else name
    )
    print(json.dumps([name, "busy" if name == "busy" else "finished", str(answer)]), flush=True)
