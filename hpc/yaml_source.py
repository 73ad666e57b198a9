"""A YAML file that remembers its lines."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from asiarch.models.errors import UserError


@dataclass(frozen=True)
class YamlSource:
    """The content of a YAML file (a mapping) and the tree of nodes it came from."""

    path: Path
    data: dict[str, Any]
    root: yaml.MappingNode

    @classmethod
    def read(cls, path: Path) -> "YamlSource":
        """Parse a file. Raises UserError where it is missing, no YAML, no mapping, or names a key twice."""
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); make one with: asiarch-hpc init"
            ) from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
        try:
            aliases = [t for t in yaml.scan(text, Loader=yaml.SafeLoader) if isinstance(t, yaml.AliasToken)]
            if aliases:
                line = aliases[0].start_mark.line + 1
                raise UserError(f"{path}:{line}: write the value out: *{aliases[0].value} is not taken here")
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = 1 if mark is None else mark.line + 1
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise UserError(f"{path}:{line}: not valid YAML: {problem}") from None
        if not isinstance(root, yaml.MappingNode):
            raise UserError(f"{path}:1: need `key: value` lines; make a start with: asiarch-hpc init")
        source = cls(path, data, root)
        source._refuse_repeated(root, ())
        return source

    def _refuse_repeated(self, node: yaml.Node, above: tuple[str, ...]) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                name = ".".join((*above, key.value))
                raise UserError(f"{self.path}:{key.start_mark.line + 1}: {name}: the key is there twice")
            seen.add(key.value)
            self._refuse_repeated(value, (*above, key.value))

    def where(self, location: tuple[int | str, ...]) -> str:
        """`file:line` of a key, or of the nearest one above it that the file has."""
        node: yaml.Node = self.root
        line = 1
        for part in location:
            if isinstance(node, yaml.MappingNode):
                found = [(key, value) for key, value in node.value if key.value == str(part)]
                if not found:
                    break
                line, node = found[0][0].start_mark.line + 1, found[0][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
            else:
                break
        return f"{self.path}:{line}"
