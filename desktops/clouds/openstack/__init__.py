"""OpenStack behind the cloud protocol: Keystone, Nova, Neutron, Cinder and Glance.

openstacksdk reads `clouds.yaml`, authenticates, finds each region's services and keeps their
connections; requests and answers are plain JSON, because a fleet of ten thousand servers is
listed in seconds that way and in minutes as resource objects. It is imported when a region is
first asked, not with this module: it is heavy.

    api       one region's services: the only place that sends a request
    faults    what a failed request means, as the protocol's errors
    marks     how resources carry their key
    values    answers as the protocol's values
    fences    ports: who can reach a server
    images    images, and their import from another region
    chain     a volume's way into another region, decided (pure)
    copies    the same, done
    live      live migration inside a region
    driver    the protocol
"""

from desktops.clouds.openstack.driver import connect

__all__ = ["connect"]
