"""Clustering for palettization: near-optimal scalar k-means, vector k-means, and assignment to given tables."""

from graphpress.passes.clustering.assignment import assign_scalar
from graphpress.passes.clustering.errors import ClusteringError
from graphpress.passes.clustering.result import Clusters, GroupedClusters
from graphpress.passes.clustering.scalar import cluster_groups, cluster_scalar

__all__ = [
    "ClusteringError",
    "Clusters",
    "GroupedClusters",
    "assign_scalar",
    "cluster_groups",
    "cluster_scalar",
]
