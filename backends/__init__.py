"""Backends: conversion of compressed models to deployment formats."""

from graphpress.backends.registry import (
    Backend,
    BackendRegistrationError,
    UnknownBackendError,
    lookup_backend,
    register_backend,
    registered_backends,
    unregister_backend,
)

__all__ = [
    "Backend",
    "BackendRegistrationError",
    "UnknownBackendError",
    "lookup_backend",
    "register_backend",
    "registered_backends",
    "unregister_backend",
]
