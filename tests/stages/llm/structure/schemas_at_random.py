"""Schemas as hypothesis draws them, bounded so that a model of random weights comes to an end: strings, numbers, arrays and depth."""

from typing import Any

from hypothesis import strategies as st

Schema = st.SearchStrategy[dict[str, Any]]

_NAMES = st.sampled_from(["a", "name", "Größe", "two words", 'a "quote"', "back\\slash", "", "not", "type", "$ref", "日本"])
_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**6), 10**6), st.text(max_size=6), st.just([1, {"a": None}]), st.just({})
)
_STRINGS: Schema = st.one_of(
    st.builds(
        lambda least, more: {"type": "string", "minLength": least, "maxLength": least + more},
        st.integers(0, 3),
        st.integers(0, 5),
    ),
    st.sampled_from(["^[a-z]{1,5}$", "^(red|green)-[0-9]{2}$", "[0-9]", r"^\d{3}-\w{1,3}$", "^.{0,4}é$"]).map(
        lambda pattern: {"type": "string", "pattern": pattern, "maxLength": 12}
    ),
    st.sampled_from(["date", "time", "date-time", "uuid", "ipv4"]).map(lambda form: {"type": "string", "format": form}),
)
_NUMBERS: Schema = st.one_of(
    st.builds(
        lambda least, more: {"type": "integer", "minimum": least, "maximum": least + more},
        st.integers(-50, 999),
        st.integers(0, 200),
    ),
    st.builds(lambda below: {"type": "integer", "exclusiveMinimum": -9, "exclusiveMaximum": below}, st.integers(-7, 99)),
    st.sampled_from([2, 3, 7, 25]).map(lambda step: {"type": "integer", "multipleOf": step, "minimum": 0, "maximum": 999}),
    st.just({"type": "number", "multipleOf": 0.25, "minimum": -3, "maximum": 3}),
)
_PLAIN: Schema = st.one_of(
    _STRINGS,
    _NUMBERS,
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["integer", "null"], "minimum": 0, "maximum": 9}]),
    st.lists(_VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    _VALUES.map(lambda value: {"const": value}),
)


def _arrays(inner: Schema) -> Schema:
    lists = st.builds(
        lambda items, least, more: {"type": "array", "items": items, "minItems": least, "maxItems": least + more},
        inner,
        st.integers(0, 2),
        st.integers(0, 2),
    )
    tuples = st.lists(inner, min_size=1, max_size=3).map(
        lambda items: {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    )
    return lists | tuples


def _objects(inner: Schema) -> Schema:
    def made(properties: dict[str, Any], draw: list[bool]) -> dict[str, Any]:
        required = [name for name, is_required in zip(properties, draw, strict=False) if is_required]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    return st.builds(made, st.dictionaries(_NAMES, inner, max_size=4), st.lists(st.booleans(), min_size=4, max_size=4))


def _referred(inner: Schema) -> Schema:
    """The same schema in two places, by its name."""
    return inner.map(
        lambda one: {
            "$defs": {"one": one},
            "type": "object",
            "properties": {"x": {"$ref": "#/$defs/one"}, "y": {"$ref": "#/$defs/one"}},
            "required": ["x"],
            "additionalProperties": False,
        }
    )


def _combined(inner: Schema) -> Schema:
    return st.lists(inner, min_size=1, max_size=3).map(lambda several: {"anyOf": several})


def schemas() -> Schema:
    def larger(inner: Schema) -> Schema:
        return st.one_of(_arrays(inner), _objects(inner), _combined(inner))

    some = st.recursive(_PLAIN, larger, max_leaves=5)
    return some | _referred(some)
