"""The manifest: what every node of the fleet should run, validated and promoted as one unit."""
