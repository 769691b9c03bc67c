"""The networks as upstream defines them, one file a part."""
