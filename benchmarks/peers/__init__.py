"""Everything that can solve these problems, each behind one small adapter."""

from __future__ import annotations

from benchmarks.peers.base import Peer
from benchmarks.peers.conic import Clarabel, CvxpyLayers
from benchmarks.peers.first_order import Fista, GramFista, Published
from benchmarks.peers.jaxopt import BlockCoordinate, ProjectedGradient
from benchmarks.peers.liblinear import Liblinear
from benchmarks.peers.ours import Ours
from benchmarks.peers.quadratic import ProxSuite, Qpth

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Ours(),
        Published(),
        Fista(),
        GramFista(),
        Liblinear(),
        Qpth(),
        ProxSuite(),
        Clarabel(),
        CvxpyLayers(),
        ProjectedGradient(),
        BlockCoordinate(),
    )
}
