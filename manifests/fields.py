"""Prints the field reference of manifests/README.md from `gptqpipe schema` on standard input: the table that the loader itself uses."""
import json
import sys

schema = json.load(sys.stdin)
kinds = schema["properties"]["stages"]["additionalProperties"]["properties"]
for kind, spec in kinds.items():
    print(f"## {kind}\n\n{spec['description'][0].upper()}{spec['description'][1:]}.\n")
    print("| field | default | meaning |\n| --- | --- | --- |")
    for name, field in spec["properties"].items():
        required = name in spec.get("required", [])
        default = "required" if required else f"`{json.dumps(field['default'])}`" if "default" in field else ""
        choices = next((f" ({', '.join(o['enum'])})" for o in field.get("anyOf", [field]) if "enum" in o), "")
        print(f"| `{name}` | {default} | {field['description']}{choices} |".replace("`\"", "`").replace("\"`", "`"))
    print()
