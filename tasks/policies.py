"""What becomes of pictures that the safety checker flags: the policy of the gateway that pays.

`flag` delivers them as they are and says so, `blur` delivers them beyond recognition, `withhold`
neither delivers nor charges them. What counts is the policy when a job ends. The caller owns the
transaction; who looks at pictures is the engine's matter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from tasks.tables import GatewayPolicy

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Safety = Literal["flag", "blur", "withhold"]
DEFAULT: Safety = "flag"
# Of the longer side: what is smaller than a quarter of it is gone.
_BLUR_SHARE = 1 / 8


def set_safety(session: Session, gateway_id: UUID, safety: Safety) -> None:
    """Set a gateway's policy, for every job that ends from now on."""
    session.execute(
        insert(GatewayPolicy)
        .values(gateway_id=gateway_id, safety=safety)
        .on_conflict_do_update(index_elements=["gateway_id"], set_={"safety": safety})
    )


def safety(session: Session, gateway_ids: Collection[UUID]) -> dict[UUID, str]:
    """Return the policies of gateways."""
    rows = session.execute(
        select(GatewayPolicy.gateway_id, GatewayPolicy.safety).where(
            GatewayPolicy.gateway_id.in_(gateway_ids)
        )
    )
    return {**dict.fromkeys(gateway_ids, DEFAULT), **{row.gateway_id: row.safety for row in rows}}


def apply(
    policy: str, pictures: Mapping[int, Picture], flags: Sequence[bool | None]
) -> dict[int, Picture]:
    """Return what may be delivered of a job's pictures, by index. `flags` are in their order."""
    flagged = {index for index, flag in zip(pictures, flags, strict=True) if flag}
    if policy == "withhold":
        return {index: one for index, one in pictures.items() if index not in flagged}
    if policy == "blur":
        return {i: _blurred(one) if i in flagged else one for i, one in pictures.items()}
    return dict(pictures)


def _blurred(picture: Picture) -> Picture:
    from PIL import ImageFilter

    return picture.filter(ImageFilter.GaussianBlur(max(picture.size) * _BLUR_SHARE))
