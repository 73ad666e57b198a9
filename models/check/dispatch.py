"""A dispatch mode that does not bring in torch's compiler, which takes two seconds to import."""

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):
    """Sees every operation that runs within it; for eager code alone, as all of a check's is."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
