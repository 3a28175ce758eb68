"""Models that a session loads once: every test of a worker gets the same ones, so none may leave a change behind."""

from collections.abc import Callable, Iterator
from typing import Any

_PLAIN = (bool, int, float, str, type(None))


class Shared:
    """Models by name, each loaded when it is first asked for."""

    def __init__(self) -> None:
        self.models: dict[str, Any] = {}
        self._condition: dict[str, dict[str, Any]] = {}
        self._digest: dict[str, str] = {}

    def get(self, name: str, load: Callable[[], Any]) -> Any:
        """The model; loaded the first time."""
        if name not in self.models:
            self.models[name] = load()
            self._condition[name], self._digest[name] = condition(self.models[name]), digest(self.models[name])
        return self.models[name]

    def changed(self) -> list[str]:
        """What tests have changed and left so since it was last asked, such as ``hooks of t5``."""
        found = []
        for name, model in self.models.items():
            now, before = condition(model), self._condition[name]
            parts = [part for part in now if now[part] != before[part]]
            if parts == ["weights"] and digest(model) == self._digest[name]:  # changed, and then changed back
                parts = []
            found += [f"{part} of {name}" for part in parts]
            self._condition[name] = now
        return found

    def with_other_weights(self) -> list[str]:
        """The models whose weights are not those that were loaded."""
        return [name for name, model in self.models.items() if digest(model) != self._digest[name]]


def condition(model: Any) -> dict[str, Any]:
    """What tests may change of a model, cheap to read: torch counts the changes of a tensor in place."""
    return {
        "weights": [(p.data_ptr(), p._version, p.requires_grad) for p in _parameters(model)],
        "hooks": [name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks],
        "settings": {key: value for key, value in vars(model.cfg).items() if isinstance(value, _PLAIN)},
        "training mode": model.training,
    }


def _parameters(model: Any) -> Iterator[Any]:
    """Those of all modules, without names: after every file all models are looked at, and most modules have none."""
    waiting = [model]
    while waiting:
        module = waiting.pop()
        yield from (parameter for parameter in module._parameters.values() if parameter is not None)
        waiting += (part for part in module._modules.values() if part is not None)


def digest(model: Any) -> str:
    """All weights in one hash, whatever way they were changed."""
    import xxhash

    taken = xxhash.xxh3_128()
    for parameter in model.parameters():
        taken.update(parameter.detach().contiguous().numpy())
    return taken.hexdigest()
