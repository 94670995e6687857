"""What a task's folder says of its end: the `.out` file that is written last.

A worker writes it after the pictures. Where there are none, the scheduler does, before it tells
anybody: a worker may be the last to know that its job has ended. The file has the shape that the
AWS task API gives it; where it is, is `results`' matter.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from tasks import results, stems
from tasks.claims import NewOutput
from tasks.stems import Transact
from tasks.storage import ObjectStore
from tasks.tables import Job

_JSON = "application/json"


def store(store: ObjectStore, job: Job, stem: str | None, outputs: Sequence[NewOutput]) -> None:
    """Write what an attempt of a task has made; a job that is no task has nothing to say.

    Raises:
        StorageError: The object store did not take it.
    """
    task = results.Task.of(job.callback)
    if task is not None and stem is not None:
        data = json.dumps(_manifest(job, task, outputs)).encode()
        store.put(results.manifest_key(stem), data, _JSON)


def explain(transact: Transact, store: ObjectStore, job: Job) -> str | None:
    """Return the key of an ended task's manifest, which says by then why it has no pictures.

    One that has pictures has had its manifest before. None: the job is no task.

    Raises:
        StorageError: The object store did not take it.
        SQLAlchemyError: The database did not answer.
    """
    task, stem = results.Task.of(job.callback), stems.of(transact, store, job)
    if task is None or stem is None:
        return None
    if job.state != "succeeded":
        data = json.dumps(_failure(job, task)).encode()
        store.put(results.manifest_key(stem), data, _JSON)
    return results.manifest_key(stem)


def _failure(job: Job, task: results.Task) -> dict[str, object]:
    return {
        "images": [""],
        "parameters": {
            "id_task": task.id,
            "status": 0,
            "error_msg": job.error_message or f"The task was {job.state}.",
            "reason": {"code": job.error_code, "state": job.state},
        },
        "info": "",
    }


def _manifest(job: Job, task: results.Task, outputs: Sequence[NewOutput]) -> dict[str, object]:
    """Say what was run, by the web UI's names, and the pictures' seeds in their order."""
    run = job.params
    made = sorted(outputs, key=lambda one: one.index)
    return {
        "images": [""],
        "parameters": {
            "prompt": run["prompt"],
            "negative_prompt": run["negative_prompt"],
            "seed": run["seed"],
            "steps": run["num_inference_steps"],
            "cfg_scale": run["guidance_scale"],
            "width": run["width"],
            "height": run["height"],
            "denoising_strength": run["strength"] if job.input_key else None,
            "sd_model_checkpoint": job.model_id,
            "id_task": task.id,
            "image_seed": ",".join(str(one.seed) for one in made),
            "image_url": [task.url(one.key) for one in made],
            "error_msg": "",
        },
        "info": "",
    }
