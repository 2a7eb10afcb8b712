"""Run by the tests as a process of its own: a worker that pretends to draw.

python -m tests.serve.worker WHERE NAME DEVICE LEASE
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tastemaker.serve.events import Made
from tastemaker.serve.jobs import Job, Jobs, Tell, work_on
from tastemaker.serve.store import Store


def main(where: str, worker: str, device: str, lease: float) -> None:
    with Store(where, patience=20) as store:

        def work(job: Job, tell: Tell) -> Mapping[str, Any]:
            steps, model = job.work["steps"], job.work.get("model")
            for step in range(steps):
                if model is not None:
                    Path(model, "weights").read_bytes()
                time.sleep(0.05)
                item = f"job {job.job} picture {step}"
                store.add(Made(item, model="m", job=job.job), key=f"job {job.job}: {step}")
                tell((step + 1) / steps, f"{step + 1} of {steps}")
            return {"pictures": steps, "by": worker}

        work_on(Jobs(store, lease=lease), work, worker=worker, device=device)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
