"""The config of a run: fields with their types, rules between them, TOML, and the recipes. Torch is not known here."""
