"""``explore``: try methods, layers and strengths on a prompt by hand, in a browser or a notebook."""

import importlib.util
import os
import threading
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError
from mechsteer.explorer.desk import Desk
from mechsteer.explorer.setting import first_setting
from mechsteer.models import check_model, loaded_info
from mechsteer.prompts import Prompt

if TYPE_CHECKING:
    from mechsteer.explorer.serving import Explorer

START = "Tell me about the sea. <!-> Answer in capital letters. <-!>"
"""The prompt of an explorer that is given none."""


def explore(
    model: Any,
    prompt: str | Prompt = START,
    *,
    direction: str | os.PathLike[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> "Explorer":
    """Open a page where a prompt is steered by hand.

    It shows the unsteered and the steered answer as they are written, what changed marked; the first token's
    probabilities; Influence by layer; answers at several strengths; and the Python that makes the same text. In a
    notebook the result shows itself inline. The page computes while something is changed on it, and then puts hooks on
    the model: do not use the model elsewhere in those seconds.

    Args:
        model: A loaded model.
        prompt: A text, its instruction between ``<!->`` and ``<-!>``, or a prompt.
        direction: The file of a saved direction, which is then among the methods.
        host: The address to listen at: this machine alone, unless another one is given. Whoever can reach it can use
            the model; there is no password.
        port: The port; 0 takes a free one.

    Returns:
        The explorer, running in the background: its ``url``, ``stop()``, and ``wait()`` for scripts.

    Raises:
        MechsteerError: if the extra ``explore`` is not installed, the model is none, the prompt cannot be made again
            from its text, the direction cannot be read, or the port is taken.

    Example:
        >>> explorer = ms.explore(model, "Tell me about the writer. <!-> Use only uppercase letters. <-!>")
        >>> explorer.stop()
    """
    if importlib.util.find_spec("panel") is None:
        raise MechsteerError('The explorer needs Panel: pip install "mechsteer[explore]".')
    check_model(model)
    from mechsteer.directions import Direction
    from mechsteer.explorer.page import Page
    from mechsteer.explorer.serving import serve

    file = None if direction is None else os.fspath(direction)
    if file is not None:
        Direction.load(file)
    first = first_setting(model, prompt, file)
    desk, lock = Desk(model), threading.Lock()
    title = f"{loaded_info(model).name} – mechsteer explore"
    return serve(lambda: Page(desk, first, lock).template(), host, port, title)
