"""The presets: each YAML file states every value of a kind of campaign."""
