"""What a client of the task API sends: two envelopes, and what each says of its task.

`/v1alpha2` has the task's facts in a place of their own; in the older `/v1alpha1` they are hidden
among the scripts of the web UI's own body. As there, fields that are not known are ignored. What is
inside is `content`'s matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictStr

from api import parsing
from api.schemas import Context
from tasks import results

DEFAULT_PREFIX = "output"
# Runtime of a task that names a model alone, as its messages say it.
LEGACY = "legacy"


def _task_id(text: str) -> str:
    if not results.is_task_id(text):
        raise ValueError("must be 1 to 64 letters, digits, hyphens and underscores")
    return text


TaskId = Annotated[
    StrictStr, AfterValidator(_task_id), Field(max_length=64, pattern="^[A-Za-z0-9_-]+$")
]
Prefix = Annotated[StrictStr, AfterValidator(results.checked_prefix)]
Kind = Literal["text-to-image", "image-to-image", "extra-single-image"]


class _Fields(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Metadata(_Fields):
    """Whose task it is, and where its results go."""

    id: TaskId = Field(description="Names the results.")
    runtime: TaskId = Field(description="A runtime of this installation: a named set of models.")
    tasktype: Kind
    prefix: Prefix = Field(description="Folder of the results.")
    context: Context = Field({}, description="Any JSON; comes back with the completion message.")


class Task(_Fields):
    """A task and what it is to do."""

    metadata: Metadata
    content: dict[str, Any] = Field(
        description="As the web UI's txt2img, img2img and extra-single-image take it."
    )


class V1Alpha2(_Fields):
    """The body of `/v1alpha2`."""

    task: Task


class Scripts(BaseModel):
    """The facts of a task, among the web UI's scripts."""

    model_config = ConfigDict(extra="allow", frozen=True)

    task: Kind
    sd_model_checkpoint: StrictStr = Field(description="The model: a file name, title or id.")
    id_task: TaskId = Field(description="Names the results.")
    save_dir: Prefix = Field(DEFAULT_PREFIX, description="Folder of the results.")
    image_link: StrictStr | None = Field(None, description="The input picture.")


class V1Alpha1(BaseModel):
    """The body of `/v1alpha1`: that of the web UI, and what is to be done, among its scripts."""

    model_config = ConfigDict(extra="allow", frozen=True)

    alwayson_scripts: Scripts


@dataclass(frozen=True)
class Asked:
    """A task of either version. One without a runtime names its model in the content."""

    id: str
    runtime: str | None
    kind: Kind
    prefix: str
    context: object
    content: Mapping[str, Any]


def v1alpha2() -> Asked:
    """Read a body of `/v1alpha2`.

    Raises:
        MalformedBody, InvalidParams: It is none, or a field is wrong.
    """
    task = parsing.checked(V1Alpha2, parsing.untyped_json()).task
    facts = task.metadata
    return Asked(facts.id, facts.runtime, facts.tasktype, facts.prefix, facts.context, task.content)


def v1alpha1() -> Asked:
    """Read a body of `/v1alpha1`.

    Raises:
        MalformedBody, InvalidParams: It is none, or a field is wrong.
    """
    body = parsing.untyped_json()
    facts = parsing.checked(V1Alpha1, body).alwayson_scripts
    return Asked(facts.id_task, None, facts.task, facts.save_dir, {}, body)
