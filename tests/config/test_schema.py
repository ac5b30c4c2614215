from __future__ import annotations

from hrt_mm.config import json_schema


def test_every_key_has_a_description_and_no_other_key_is_allowed() -> None:
    schema = json_schema()
    for name, definition in schema["$defs"].items():
        assert definition["additionalProperties"] is False, name
        for key, field in definition["properties"].items():
            assert key == "type" or "description" in field or "$ref" in field, f"{name}.{key}"


def test_a_modality_takes_its_own_datasets() -> None:
    schema = json_schema()
    rules = {
        rule["if"]["properties"]["modality"]["properties"]["type"]["const"]: rule
        for rule in schema["allOf"]
        if "properties" in rule["if"]
    }
    options = rules["vision"]["then"]["properties"]["data"]["anyOf"]
    definitions = [schema["$defs"][option["$ref"].rsplit("/", 1)[-1]] for option in options]
    assert {"digits", "mnist"} <= {definition["properties"]["type"]["const"] for definition in definitions}


def test_a_type_is_required_where_it_tells_components_apart() -> None:
    assert "type" in json_schema()["$defs"]["FixedGroups"]["required"]
