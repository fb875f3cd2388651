"""Canonical forms of client addresses from sockets, proxies and options. A socket that listens on :: has IPv4 clients as
::ffff:192.0.2.7."""

import ipaddress


def plain(host: str) -> str:
    """An IPv4-mapped IPv6 address as IPv4; any other as it is."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped) if mapped else host


def client_of(host: str) -> str:
    """The address that stands for a client: of IPv6 the /64 network, since one client usually has all of it."""
    host = plain(host)
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address.packed, 64), strict=False).network_address)
    return host


def plain_network(said: str) -> str:
    """An address or network, in IPv4 form if IPv4-mapped. Raises ValueError."""
    network = ipaddress.ip_network(said)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped:
            return str(ipaddress.ip_network((mapped, network.prefixlen - 96)))
    return said
