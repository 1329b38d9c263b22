"""Clustering for palettization: near-optimal scalar k-means, vector k-means, and assignment to given tables."""

from graphpress.passes.clustering.assignment import assign_scalar
from graphpress.passes.clustering.errors import ClusteringError
from graphpress.passes.clustering.ordered_vectors import OrderedVectors
from graphpress.passes.clustering.result import Clusters, GroupedClusters
from graphpress.passes.clustering.scalar import cluster_groups, cluster_scalar
from graphpress.passes.clustering.vectors import assign_vectors, cluster_vectors, padded

__all__ = [
    "ClusteringError",
    "Clusters",
    "GroupedClusters",
    "OrderedVectors",
    "assign_scalar",
    "assign_vectors",
    "cluster_groups",
    "cluster_scalar",
    "cluster_vectors",
    "padded",
]
