"""Which addresses on the internet may be connected to on somebody else's word. Pure.

The question is where a packet would end up, not whether its address is routable: some IPv6
addresses carry an IPv4 address, and are judged by that. What is not known to be public is refused.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

# What the standard library calls global and IANA's registries do not, or what is global and still
# somebody's inside: protocol assignments (Oracle's metadata among them), 6to4 relays, Azure's wire
# server.
_NOT_PUBLIC_V4 = (
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv4Network("168.63.129.16/32"),
)
# Global unicast is all that IANA has given out. Outside of it are multicast, site-local, local
# translation and the IPv4-compatible range.
_UNICAST_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = (IPv6Network("2001::/23"), IPv6Network("3fff::/20"))
# Translation by gateways of the network that we are in.
_NAT64 = IPv6Network("64:ff9b::/96")
# Never, not even for a host that the operator trusts: behind these are metadata services.
_LINK_LOCAL = (IPv4Network("169.254.0.0/16"), IPv6Network("fe80::/10"))
_METADATA = (
    *map(IPv4Address, ("100.100.100.200", "192.0.0.192", "168.63.129.16")),
    IPv6Address("fd00:ec2::254"),
)


def read(text: str) -> Address:
    """Return the address that a resolver has answered.

    Raises:
        ValueError: It is none.
    """
    return ip_address(text)


def is_public(address: Address) -> bool:
    """Tell whether an address is a public host's, wherever it is translated to."""
    if isinstance(address, IPv4Address):
        special = any(address in network for network in _NOT_PUBLIC_V4)
        return address.is_global and not address.is_multicast and not special
    inner = carried(address)
    if inner is not None:
        return is_public(inner)
    special = any(address in network for network in _NOT_PUBLIC_V6)
    return address.is_global and address in _UNICAST_V6 and not special


def is_tolerable(address: Address) -> bool:
    """Tell whether an address may be a host's of the operator's own network: no metadata service.

    Private and loopback addresses are tolerable; those that belong to no host are not.
    """
    inner = carried(address) if isinstance(address, IPv6Address) else None
    if inner is not None:
        return is_tolerable(inner)
    local = any(address.version == net.version and address in net for net in _LINK_LOCAL)
    nobody = address.is_multicast or address.is_unspecified
    return not (local or nobody or address in _METADATA)


def carried(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that packets to an IPv6 address end up at, if there is one.

    Teredo is not among them: all of it is refused, with the other protocol assignments.
    """
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.sixtofour
