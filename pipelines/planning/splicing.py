"""A Ray Serve config as text, with the values of a few settings of Triptych's application put in place of what stood there.

Decides where a setting begins and ends, and how a value is written. Every other line stays as it is, comments included. Knows no plan.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipelines.settings.config_file import IMPORT_PATH
from stages.contract.errors import ConfigurationError

FLOW_UNDER = 100  # characters: a value that fits is written on one line


def with_block(text: str, where: str, name: str, settings: Mapping[str, Mapping[str, Any]], remark: str) -> str:
    """The setting `name` of the application's args holds these, and says `remark` behind its name. `where`: what the text is called in
    the error where it has no such application (`ConfigurationError`)."""
    args = _args(yaml.compose(text), where)
    first = args.value[0][0]
    indent = first.start_mark.column
    for key, value in args.value:
        if key.value == name:
            begins, ends = key.start_mark.index, _end(text, value.end_mark.index, key.start_mark.column)
            return text[:begins] + _block(name, settings, remark, indent) + text[ends:]
    begins = first.start_mark.index
    return text[:begins] + _block(name, settings, remark, indent) + "\n" + " " * indent + text[begins:]


def with_value(text: str, where: str, path: Sequence[str], value: Mapping[str, Any], before: str) -> str:
    """The setting of the application's args at that path is this, on one line; what isn't there of the path is put in, before the setting
    of that name where it is one of the args themselves."""
    node, rest = _args(yaml.compose(text), where), list(path)
    while len(rest) > 1 and isinstance(found := _entry(node, rest[0]), yaml.MappingNode) and found.value:
        node, rest = found, rest[1:]
    for name in reversed(rest[1:]):
        value = {name: value}
    found = _entry(node, rest[0])
    if found is not None:
        begins, ends = found.start_mark.index, found.end_mark.index
        space = " " if text[begins - 1] == ":" else ""
        return text[:begins] + space + _flow(value) + text[_end(text, ends, node.start_mark.column) :]
    key = next((key for key, _ in node.value if key.value == before), node.value[0][0])
    between = ", " if node.flow_style else "\n" + " " * key.start_mark.column
    begins = key.start_mark.index
    return text[:begins] + f"{rest[0]}: {_flow(value)}{between}" + text[begins:]


def _args(document: yaml.Node | None, where: str) -> yaml.MappingNode:
    applications = _entry(document, "applications")
    for entry in applications.value if isinstance(applications, yaml.SequenceNode) else ():
        path, args = _entry(entry, "import_path"), _entry(entry, "args")
        if (
            isinstance(path, yaml.ScalarNode)
            and path.value == IMPORT_PATH
            and isinstance(args, yaml.MappingNode)
            and not args.flow_style
        ):
            return args
    raise ConfigurationError(
        f"{where}: the application with import_path {IMPORT_PATH} has no args, one setting to a line, to plan for"
    )


def _entry(node: yaml.Node | None, name: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for key, value in node.value if key.value == name), None)


def _end(text: str, end: int, indent: int) -> int:
    """Where a block ends: before the comments and blank lines that follow it and stand no further in than its key."""
    lines = text[:end].split("\n")
    is_partial = bool(lines[-1].strip())
    rest = len(lines[-1]) if not is_partial else 0
    if is_partial:
        return end
    del lines[-1]
    while lines and (not lines[-1].strip() or (lines[-1].lstrip().startswith("#") and _indent(lines[-1]) <= indent)):
        rest += len(lines.pop()) + 1
    return end - rest - 1


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _block(name: str, settings: Mapping[str, Mapping[str, Any]], remark: str, indent: int) -> str:
    """A person's YAML: a line for a setting, what is short within braces."""
    lines = [f"{name}:   # {remark}"]
    for key, each in settings.items():
        lines.append(f"  {key}:")
        lines += [line for setting, value in each.items() for line in _setting(setting, value, 4)]
    return f"\n{' ' * indent}".join(lines)


def _setting(name: str, value: Any, indent: int) -> Sequence[str]:
    flow = _flow(value)
    if len(flow) <= FLOW_UNDER or not isinstance(value, Mapping):
        return [f"{' ' * indent}{name}: {flow}"]
    return [f"{' ' * indent}{name}:", *(line for key, each in value.items() for line in _setting(key, each, indent + 2))]


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).strip().removesuffix("\n...")
