"""A steered model for Inspect (https://inspect.aisi.org.uk): any of its tasks under any intervention.

    inspect eval task.py --model mechsteer/organism:instruct-llama -M steer=steer.safetensors

or, in Python, ``get_model("mechsteer/NAME", steer="steer.safetensors")``. Inspect finds this module by the package's
entry point; install with ``pip install 'mechsteer[inspect]'``. See :mod:`mechsteer.inspect_bridge.provider`.
"""

from typing import Any

from mechsteer.errors import MechsteerError

try:
    from inspect_ai.model import modelapi  # type: ignore[import-not-found]
except ImportError as error:
    raise MechsteerError(
        f"The bridge to Inspect needs its package ({error}): pip install 'mechsteer[inspect]'."
    ) from None


@modelapi(name="mechsteer")
def mechsteer() -> Any:
    """The provider, which is imported when a task asks for it: Inspect reads all entry points at every start."""
    from mechsteer.inspect_bridge.provider import SteeredAPI

    return SteeredAPI
