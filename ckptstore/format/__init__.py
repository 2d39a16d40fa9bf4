"""The bytes of a checkpoint: docs/spec.md, section by section."""
