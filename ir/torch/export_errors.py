"""Explanation of the errors of `torch.export`: the module, the user's line, torch's reason, and what is accepted."""

from __future__ import annotations

import inspect
import os
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch

from graphpress.ir.errors import GraphpressError
from graphpress.ir.torch.locations import NOT_USER_CODE, user_frame

_PYTHON_LIBRARY = os.path.dirname(os.__file__) + os.sep
_TORCH_ADVICE = re.compile(
    r"\s*For more information\b.*?(?:https?://\S+|\.(?=\s|$)|$)|\s*Suggested fixes:.*|\s*See https?://\S+ for .*"
    r"|\s*For extended logs.*|\s*Caused by:.*|\s*\(unhinted: [^)]*\)+\.?|\s*\(Size-like symbols: [^)]*\)"
    r"|\s*Developer debug context:.*|\s*Hint:.*|\s*consider using data-dependent friendly APIs.*|\s*Explanation:"
)
_MOST = 500
_CONTAINERS = "tensors, numbers, strings, None, and tuples, lists and dicts of them"
_DATA_DEPENDENT = re.compile(r"data-dependent|Dynamic control flow|Data-dependent|symbolically trace variables")

_ADVICE: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        _DATA_DEPENDENT,
        "the model's Python code depends on the values of tensors; compute both cases and select with torch.where or "
        "torch.cond, and keep numbers as tensors",
    ),
    (
        re.compile(
            r"cannot be exported as an output|in output, which is not a known type|unrecognized type .* at output"
        ),
        f"accepted outputs: {_CONTAINERS}, and classes registered with torch.utils._pytree; return those, or register "
        "the class",
    ),
    (
        re.compile(r"Unsupported input type|cannot be (?:traced|flattened)|pytree-flattenable"),
        f"accepted inputs: {_CONTAINERS}, and classes registered with torch.utils._pytree",
    ),
    (
        re.compile(r"[Ii]nference tensor"),
        "the model or its inputs were made under torch.inference_mode(); make or load them outside of it",
    ),
    (
        re.compile(r"PackedParams|torch\.classes\.quantized|'?quantized::"),
        "torch has quantized the model already; pass the float model",
    ),
)
_CACHE_ADVICE = (
    "import transformers.integrations.executorch and call its register_dynamic_cache_export_support(), which registers "
    "it; or return tensors; or set use_cache=False; or wrap the model in TorchExportableModuleWithStaticCache, whose "
    "static cache becomes a state"
)


class ExportError(GraphpressError):
    """A module that torch.export cannot capture, or example inputs that do not fit it.

    Attributes:
        is_data_dependent: True if the Python code of the module depends on the values of tensors.
    """

    is_data_dependent = False


def export_error(
    module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], dynamic_shapes: Any, error: Exception
) -> ExportError:
    """Describe a failed export of `module` in one line; the caller chains torch's error."""
    name = type(module).__qualname__
    misfit = _misfit(module, args, kwargs)
    if misfit is not None:
        return ExportError(f"the example inputs do not fit {name}: {misfit}")
    frame = _user_frame(error)
    where = f" at {frame.filename}:{frame.lineno}: `{frame.line}`" if frame is not None else ""
    if not where and dynamic_shapes is not None:
        where = f" with dynamic_shapes={dynamic_shapes!r}"
    said = reason_of(error)
    advice = _advice(said)
    described = ExportError(f"cannot export {name}{where}: {said}{f'; {advice}' if advice else ''}")
    described.is_data_dependent = _DATA_DEPENDENT.search(said) is not None
    return described


def functionalization_error(error: Exception) -> ExportError:
    """Describe a failure of torch to replace the in-place ops of a program."""
    return ExportError(
        f"torch cannot replace the in-place ops of the exported program: {reason_of(error)}; register tensors that the "
        "model writes to as buffers, or write out-of-place ops"
    )


def _user_frame(error: Exception) -> traceback.FrameSummary | None:
    """Return the innermost frame of the user's code in the error, its causes, or the text of strict mode's errors."""
    file, line = user_frame(str(error).partition("from user code")[2])
    if file:
        return traceback.FrameSummary(file, line, "forward")
    cause: BaseException | None = error
    while cause is not None:
        for frame in reversed(list(_frames(cause.__traceback__))):
            if not frame.filename.startswith((*NOT_USER_CODE, _PYTHON_LIBRARY)):
                return frame
        cause = cause.__cause__ or cause.__context__
    return None


def _frames(raised: TracebackType | None) -> Iterator[traceback.FrameSummary]:
    """Yield the frames below ours; the error is raised in a call by this package."""
    found = traceback.extract_tb(raised)
    ours = [place for place, frame in enumerate(found) if _is_ours(frame.filename)]
    yield from found[ours[-1] + 1 :] if ours else found


def _is_ours(filename: str) -> bool:
    return os.path.dirname(filename) == os.path.dirname(__file__)


def _misfit(module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """Return the reason why the arguments cannot be passed to `forward`, or None if they can."""
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError, AttributeError):
        return None
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        given = [f"{len(args)} by position"] if args or not kwargs else []
        given += [", ".join(kwargs) + " by name"] if kwargs else []
        return (
            f"{error}; forward takes {signature}, got {' and '.join(given)}; accepted: a tuple of the arguments by "
            "position, or a dict of them by name"
        )
    return None


def reason_of(error: Exception) -> str:
    """Return torch's message in one line, without its advice about logs and pages."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("For more", "The error above", "from user code"))]
    text = _TORCH_ADVICE.sub("", " ".join(said[:3])) or type(error).__name__
    return text if len(text) <= _MOST else f"{text[:_MOST]} ..."


def _advice(said: str) -> str:
    """Return what to do about an error with this message, or an empty string if that is unknown."""
    if re.search(r"\b(?:Dynamic|Static|EncoderDecoder)\w*Cache\b", said):
        return _CACHE_ADVICE
    return next((advice for pattern, advice in _ADVICE if pattern.search(said)), "")
