"""Clustering for palettization: near-optimal scalar k-means, vector k-means, and nearest-centroid assignment."""

from graphpress.passes.clustering.inputs import ClusteringError, Clusters, GroupedClusters
from graphpress.passes.clustering.scalar import assign_scalar, cluster_groups, cluster_scalar
from graphpress.passes.clustering.vectors import Effort, OrderedVectors, assign_vectors, cluster_vectors, padded

__all__ = [
    "ClusteringError",
    "Clusters",
    "Effort",
    "GroupedClusters",
    "OrderedVectors",
    "assign_scalar",
    "assign_vectors",
    "cluster_groups",
    "cluster_scalar",
    "cluster_vectors",
    "padded",
]
